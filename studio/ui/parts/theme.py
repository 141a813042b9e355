"""Colours, type and spacing of the pages. The rest of the look is static/theme.css, which uses the same variables."""

import gradio as gr

TEAL = gr.themes.Color(
    c50="#effaf8", c100="#d3f1ec", c200="#a7e2da", c300="#72ccc2", c400="#42b0a6", c500="#1f948b",
    c600="#117a73", c700="#0f625d", c800="#104e4b", c900="#11413f", c950="#042625",
)  # fmt: skip
SLATE = gr.themes.Color(
    c50="#f7f8fa", c100="#eef1f5", c200="#dfe4eb", c300="#c6ced9", c400="#94a1b3", c500="#667488",
    c600="#4b5869", c700="#2f3a48", c800="#1b232d", c900="#141a22", c950="#0e1319",
)  # fmt: skip


class Stack(gr.themes.Font):
    """Font names that go into the stylesheet as they stand: nothing is fetched from anywhere."""

    def __str__(self) -> str:
        return str(self.name)


SANS = Stack("ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif")
MONO = Stack("ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace")


def studio_theme() -> gr.themes.Base:
    """Gradio's base theme in our colours, with fields that stand on the page instead of in boxes."""
    theme = gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue=SLATE,
        font=SANS,
        font_mono=MONO,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="#1a222c",
        body_text_color_dark="#e4e9ef",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="#a3afbf",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        border_color_accent="*primary_600",
        border_color_accent_dark="*primary_400",
        color_accent="*primary_600",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_950",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_padding="0px",
        block_radius="8px",
        block_title_text_weight="550",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        block_info_text_size="12px",
        form_gap_width="0px",
        layout_gap="14px",
        panel_background_fill="transparent",
        panel_background_fill_dark="transparent",
        panel_border_width="0px",
        panel_border_width_dark="0px",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_950",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#3b4757",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px color-mix(in srgb, var(--primary-500) 22%, transparent)",
        input_shadow_focus_dark="0 0 0 3px color-mix(in srgb, var(--primary-400) 30%, transparent)",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_padding="7px 10px",
        input_radius="6px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="*primary_950",
        button_primary_text_color_hover="#ffffff",
        button_primary_text_color_hover_dark="*primary_950",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#3b4757",
        button_cancel_background_fill="transparent",
        button_cancel_background_fill_dark="transparent",
        button_cancel_background_fill_hover="#fcebe9",
        button_cancel_background_fill_hover_dark="#331a19",
        button_cancel_border_color="#d9a19d",
        button_cancel_border_color_dark="#7a3c38",
        button_cancel_text_color="#b3261e",
        button_cancel_text_color_dark="#f2867e",
        button_cancel_text_color_hover="#b3261e",
        button_cancel_text_color_hover_dark="#f2867e",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_medium_radius="6px",
        button_small_radius="6px",
        button_large_radius="7px",
        button_medium_padding="7px 14px",
        button_large_padding="10px 18px",
        button_large_text_size="14px",
        button_medium_text_weight="550",
        button_large_text_weight="600",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        checkbox_border_color_selected="*primary_600",
        checkbox_label_padding="5px 10px",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        loader_color="*primary_600",
    )
