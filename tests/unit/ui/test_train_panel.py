"""The Train page's panel: what it says for an estimate and a recipe, with every value escaped."""

from studio.recipe import Recipe, all_fields
from studio.recipe.fields import Method
from studio.services.planning.advice import Fix
from studio.services.planning.estimates import Estimate, Item
from studio.ui.train import form, panel

HOSTILE = "<img src=x onerror=alert(1)> \"double\" 'single'"


def estimate(fits: bool) -> Estimate:
    return Estimate(
        items=[Item("base", HOSTILE, 2**30, HOSTILE), Item("none", "Nothing of it", 0, "")],
        total=2**30,
        available=2**31 if fits else 2**29,
        device=HOSTILE,
        fits=fits,
        trainable=35_000,
        parameters=1_000_000,
        steps=1200,
        examples=4800,
        longest=64,
        warnings=[HOSTILE],
        advice=[],
        largest_batch=16,
        longest_length=2048,
        fixes=[] if fits else [Fix({"r": 8, "name": HOSTILE}, "use r 8", 2**20, HOSTILE, True)],
        minutes=2.0,
        minutes_from=HOSTILE,
    )


def test_an_estimate_names_figures_and_what_fits() -> None:
    html = panel.estimate(estimate(fits=True), Recipe())
    for text in ("<strong>Fits</strong> 1 of 2 GiB", "<dd>1,200</dd><dt>steps</dt>", "35,000 <small>3.50%</small>",
                 "<b>16</b> fit", "<b>2,048</b>", "width:50.00%"):  # fmt: skip
        assert text in html, text
    assert "Nothing of it" not in html and "To make it fit" not in html


def test_an_estimate_that_does_not_fit_offers_changes() -> None:
    html = panel.estimate(estimate(fits=False), Recipe())
    for text in ("Does not fit", 'class="limit" style="left:50.00%"', "Use r 8", "1.0 MiB less", "; then it fits"):
        assert text in html, text


def test_values_are_escaped() -> None:
    values = form.defaults() | {"system_prompt": HOSTILE, "template": HOSTILE}
    recipe = Recipe().with_values({"model": HOSTILE, "dataset": "d"})
    for html in (
        panel.estimate(estimate(fits=False), recipe),
        panel.touched(values),
        panel.document(recipe, values),
        panel.derived(values),
    ):
        assert "<img" not in html and '"double"' not in html


def test_the_scale_is_shown_for_lora_only() -> None:
    values = form.defaults()
    assert "/ sqrt(16)\n  = <strong>8</strong>" in panel.derived(values, Method(r=16, lora_alpha=32, use_rslora=True))
    assert "= <strong>2</strong>" in panel.derived(values, Method(r=16, lora_alpha=32))
    assert "Scale" not in panel.derived(values, Method(method="ia3")) + panel.derived(values)


def test_every_field_shows_its_argument_name() -> None:
    rules = form.rules()
    for field in all_fields():
        assert f"::after {{ content: '{field.name}'; }}" in rules, field.name
    assert "#train-columns:has([data-method='full']) #field-r { display: none; }" in rules
    assert "&#" not in rules
