"""Settings: where a value comes from, and what is said of one that is not allowed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from studio.errors import BadInput
from studio.settings import Settings


def test_given_values_come_before_the_environment_and_that_before_defaults(tmp_path: Path) -> None:
    env = {"STUDIO_HOME": str(tmp_path), "STUDIO_PORT": "7000", "STUDIO_STOP_GRACE": "1.5", "STUDIO_HOST": "::1"}
    settings = Settings.from_env(env, port=None, host="localhost")
    assert (settings.home, settings.port, settings.stop_grace, settings.host) == (tmp_path, 7000, 1.5, "localhost")
    assert settings.max_rows == Settings(home=tmp_path).max_rows


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_env({"STUDIO_PORT": "", "STUDIO_HOSTED": "", "SPACE_ID": ""}) == Settings.from_env({})


def test_only_from_env_reads_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PORT", "7001")
    assert (Settings(home=tmp_path).port, Settings.from_env().port) == (7860, 7001)


def test_the_home_is_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for text, home in (("here", tmp_path / "here"), ("~/studio", tmp_path / "me" / "studio")):
        assert Settings.from_env({"STUDIO_HOME": text}).home == Settings.from_env({}, home=Path(text)).home == home


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("STUDIO_PORT", "many", "a whole number from 0 to 65535"),
        ("STUDIO_PORT", "-1", "a whole number from 0 to 65535"),
        ("STUDIO_PORT", "65536", "a whole number from 0 to 65535"),
        ("STUDIO_MAX_ROWS", "2.5", "a whole number of at least 0"),
        ("STUDIO_CHAT_IDLE", "nan", "a number of at least 0"),
        ("STUDIO_KEEPER_INTERVAL", "0", "a number greater than 0"),
        ("STUDIO_OFFLINE", "perhaps", "true or false"),
        ("STUDIO_HOME", "~nobody-of-this-name/studio", "a folder"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_variable(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(BadInput) as error:
        Settings.from_env({variable: value})
    assert str(error.value) == f"{variable} must be {allowed}, not {value!r}."


def test_every_value_that_is_not_allowed_is_named() -> None:
    with pytest.raises(BadInput, match=r"^port must be .*'-1'\. STUDIO_HOSTED must be true or false, not 'x'\.$"):
        Settings.from_env({"STUDIO_HOSTED": "x", "STUDIO_PORT": "7000"}, port=-1)


@pytest.mark.parametrize(
    ("env", "offline", "hosted", "admins"),
    [
        ({}, False, False, ""),
        ({"HF_HUB_OFFLINE": "Yes"}, True, False, ""),
        ({"HF_HUB_OFFLINE": "perhaps"}, False, False, ""),
        ({"HF_HUB_OFFLINE": "1", "STUDIO_OFFLINE": "off"}, False, False, ""),
        ({"SPACE_ID": "a/b", "SPACE_AUTHOR_NAME": "a"}, False, True, "a"),
        ({"SPACE_ID": "a/b", "SPACE_AUTHOR_NAME": "a", "STUDIO_HOSTED": "no", "STUDIO_ADMINS": "c"}, False, False, "c"),
    ],
)
def test_the_hub_and_a_space_have_a_say(env: dict[str, str], offline: bool, hosted: bool, admins: str) -> None:
    settings = Settings.from_env(env)
    assert (settings.offline, settings.hosted, settings.admins) == (offline, hosted, admins)


def test_settings_are_immutable_and_copied_with_other_values(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1
    with pytest.raises(ValidationError, match="not permitted"):
        Settings(home=tmp_path, **{"ports": 1})
    assert (settings.model_copy(update={"port": 1}).port, settings.port) == (1, 7860)
