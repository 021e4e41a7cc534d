"""The `hyperact` command: which command runs, where its settings come from, and how it fails."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from hyperact.command_line import catalogue
from hyperact.command_line.dispatch import dispatch
from hyperact.command_line.main import main

names = ("greet", "interrupt", "need", "refuse")


@pytest.fixture(autouse=True)
def toy_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Install the toy commands, in an empty current directory and an environment without HYPERACT_*."""
    found = [EntryPoint(name, f"toy_commands:{name}", catalogue.group) for name in names]
    found.append(EntryPoint("learn", "toy_commands_of_a_missing_extra:learn", catalogue.group))
    (tmp_path / "toy_commands_of_a_missing_extra.py").write_text(
        "import torch_of_another_name\n\n"
        "def learn(settings: object) -> int:\n    '''Learn from the log.'''\n    return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue, "entry_points", lambda group: found)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HYPERACT_")]:
        monkeypatch.delenv(name)


class Outcome:
    """What a run of the command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def settings(self) -> Any:
        """What `greet` was given."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def hyperact(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command with some arguments."""

    def call(*arguments: str) -> Outcome:
        code = dispatch(list(arguments))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


class TestWhichCommand:
    def test_help_lists_every_command_with_its_line_even_when_its_extra_is_missing(self, hyperact: Any) -> None:
        """A newcomer sees what there is, also in an image that lacks the trainer."""
        out = hyperact("--help").out

        assert "greet      Greet somebody." in out
        assert "learn      Learn from the log." in out

    def test_help_imports_no_room(self) -> None:
        """The overview comes at once."""
        code = (
            "import sys; from hyperact.command_line.dispatch import dispatch; "
            "dispatch(['--help']); print(sorted(sys.modules))"
        )

        modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

        assert not {"'torch'", "'mlflow'", "'onnxruntime'", "'gymnasium'", "'numpy'"} & set(
            modules.split("[")[-1].split(", ")
        )

    def test_an_unknown_command_names_the_nearest(self, hyperact: Any) -> None:
        """A typing error costs one look."""
        outcome = hyperact("gret")

        assert (2, 1) == (outcome.code, outcome.err.count("\n"))
        assert "did you mean greet?" in outcome.err

    def test_no_command_prints_the_help_and_is_wrong_usage(self, hyperact: Any) -> None:
        """A script that forgot the command does not succeed."""
        outcome = hyperact()

        assert outcome.code == 2
        assert "greet" in outcome.out

    def test_a_missing_extra_gives_one_line_that_says_what_to_install(self, hyperact: Any) -> None:
        """Neither a traceback nor a riddle."""
        outcome = hyperact("learn")

        assert outcome.code == 3
        assert outcome.err == (
            "hyperact learn needs torch_of_another_name: pip install 'hyperact[toy_commands_of_a_missing_extra]'\n"
        )

    def test_a_library_missed_while_running_gives_the_same_line(self, hyperact: Any) -> None:
        """Commands may import what is slow only when they need it."""
        outcome = hyperact("need")

        assert (3, True) == (outcome.code, "needs a_library_that_is_not_installed: pip install" in outcome.err)

    def test_a_command_may_have_two_words(self, hyperact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """`hyperact bench deepsea` has settings of its own, in a file under a table of its whole name."""
        found = [EntryPoint(f"sing {name}", "toy_commands:greet", catalogue.group) for name in ("high", "low")]
        monkeypatch.setattr(catalogue, "entry_points", lambda group: found)
        Path("hyperact.toml").write_text('["sing low"]\ntimes = 3\n')

        high, low = hyperact("sing", "high", "--seed", "4"), hyperact("sing", "low", "a song")

        assert [(4, 1, "world"), (0, 3, "a song")] == [
            (outcome.settings["seed"], outcome.settings["times"], outcome.settings["name"]) for outcome in (high, low)
        ]

    def test_the_first_word_alone_asks_for_the_second(self, hyperact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever types `hyperact bench` learns what can be benched."""
        found = [EntryPoint(f"sing {name}", "toy_commands:greet", catalogue.group) for name in ("high", "low")]
        monkeypatch.setattr(catalogue, "entry_points", lambda group: found)

        outcome = hyperact("sing")

        assert (2, "hyperact sing: say which, high or low\n") == (outcome.code, outcome.err)

    def test_control_c_exits_quietly(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """No traceback; 130 as shells expect."""
        monkeypatch.setattr(sys, "argv", ["hyperact", "interrupt"])

        code = main()

        assert (130, ("", "")) == (code, capsys.readouterr())

    def test_control_c_while_it_starts_exits_quietly_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Most of a start is imports."""

        def interrupt() -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr("hyperact.command_line.dispatch.dispatch", interrupt)

        assert main() == 130

    def test_a_reader_that_has_gone_is_no_error(self) -> None:
        """As in `hyperact --help | head -1`."""
        read, write = os.pipe()
        os.close(read)
        code = "import sys; from hyperact.command_line.main import main; sys.argv[1:] = ['--help']; sys.exit(main())"

        result = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)

        assert (141, b"") == (result.returncode, result.stderr)

    def test_the_exit_code_is_the_commands_own(self, hyperact: Any) -> None:
        """Scripts can rely on it."""
        assert hyperact("refuse").code == 7

    def test_a_room_is_known_by_its_extra(self) -> None:
        """The line about a missing library names the extra of pyproject.toml."""
        command = catalogue.Command(EntryPoint("retrain", "hyperact.trainer.commands:retrain", catalogue.group))

        assert command.extra == "trainer"


class TestWhereSettingsComeFrom:
    def test_flags_win_over_variables_over_the_table_over_the_top_level_over_defaults(
        self, hyperact: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The nearer to the call, the stronger."""
        Path("hyperact.toml").write_text(
            "seed = 1\ndata_dir = 'top'\n[greet]\ndata_dir = 'table'\ntimes = 2\nloud = true\n"
        )
        monkeypatch.setenv("HYPERACT_TIMES", "3")
        monkeypatch.setenv("HYPERACT_LOUD", "false")

        settings = hyperact("greet", "--no-loud", "--times", "4", "Ada").settings

        assert settings["seed"] == 1
        assert settings["data_dir"] == "table"
        assert settings["times"] == 4
        assert settings["loud"] is False
        assert settings["name"] == "Ada"
        assert settings["models"] == ["default"]

    def test_lists_repeat_and_tables_take_json(self, hyperact: Any) -> None:
        """As the help says."""
        arguments = ("--models", "a", "--models", "b", "--extras", '{"size": 10}', "--data-dir=x/y")

        settings = hyperact("greet", *arguments).settings

        assert ["a", "b"] == settings["models"]
        assert settings["extras"] == {"size": 10}
        assert settings["data_dir"] == "x/y"

    def test_a_flag_may_be_a_word_of_python(self, hyperact: Any) -> None:
        """What people type is not ruled by what a field may be called."""
        assert "Bob" == hyperact("greet", "--from", "Bob").settings["from_"]
        assert "did you mean --from?" in hyperact("greet", "--fron", "Bob").err

    @pytest.mark.parametrize("way", ["flag", "variable"])
    def test_the_file_can_be_named(self, hyperact: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
        """A file of another name is read instead of hyperact.toml."""
        Path("hyperact.toml").write_text("seed = 1\n")
        Path("other.toml").write_text("seed = 2\n")
        if way == "variable":
            monkeypatch.setenv("HYPERACT_CONFIG", "other.toml")

        settings = hyperact("greet", *(["--config", "other.toml"] if way == "flag" else [])).settings

        assert settings["seed"] == 2

    def test_a_key_of_another_command_is_passed_over(self, hyperact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """One file and one environment serve all commands."""
        Path("hyperact.toml").write_text("shards = 3\n[refuse]\nshards = 4\n")
        monkeypatch.setenv("HYPERACT_SHARDS", "5")

        assert hyperact("greet").settings["times"] == 1

    def test_what_print_config_prints_reads_back_as_the_same(self, hyperact: Any) -> None:
        """A setting found by trying can be kept."""
        flags = ('a "b" \\ \n', "--models", "a b", "--models", "ü😀", "--loud", "--times", "7")
        extras = ("--extras", '{"a key": "x", "n": 3}', "--limit-seconds", "0.25")
        printed = hyperact("greet", *flags, *extras, "--print-config").out
        direct = hyperact("greet", *flags, *extras).settings
        Path("kept.toml").write_text(printed)

        kept = hyperact("greet", "--config", "kept.toml").settings

        assert direct == kept
        assert tomllib.loads(printed)["greet"]["limit_seconds"] == 0.25

    def test_an_unset_value_is_printed_as_a_comment(self, hyperact: Any) -> None:
        """TOML has no null, and a reader wants to know that the setting exists."""
        assert "# limit_seconds is not set" in hyperact("greet", "--print-config").out

    def test_a_secret_is_not_printed(self, hyperact: Any) -> None:
        """Screens and logs are read by many."""
        printed = hyperact("greet", "--key", "open sesame", "--print-config").out

        assert "# key is secret and not shown" in printed
        assert "sesame" not in printed


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--tims", "3"], "unknown flag --tims, did you mean --times?"),
            (["--time", "3"], "unknown flag --time, did you mean --times?"),
            (["a", "b"], "unknown argument b"),
            (["--times", "x"], "--times: input should be a valid integer"),
            (["--times", "0"], "--times: input should be greater than or equal to 1, got '0'"),
            (["--times"], "--times: expected one argument"),
            (["--extras", "x"], "--extras: expected JSON"),
            (["--config", "none.toml"], "--config: there is no file none.toml"),
        ],
    )
    def test_a_bad_flag_gives_one_line(self, hyperact: Any, arguments: list[str], complaint: str) -> None:
        """What was wrong, and what would have been right."""
        outcome = hyperact("greet", *arguments)

        assert (2, 1) == (outcome.code, outcome.err.count("\n"))
        assert complaint in outcome.err

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("tims = 3", "no command knows 'tims', did you mean times?"),
            ("[greet]\nloudd = true", "[greet] has no 'loudd', did you mean loud?"),
            ("[refuse]\ntimes = 3", "[refuse] has no 'times'"),
            ("[gret]\ntimes = 3", "no command knows 'gret', did you mean greet?"),
            ("[greet]\ntimes = 'x'", "times in hyperact.toml: input should be a valid integer"),
            ("times = ", "hyperact.toml: Invalid value"),
        ],
    )
    def test_a_bad_file_gives_one_line(self, hyperact: Any, text: str, complaint: str) -> None:
        """Nothing in a file is passed over in silence."""
        Path("hyperact.toml").write_text(text)

        outcome = hyperact("greet")

        assert (2, 1) == (outcome.code, outcome.err.count("\n"))
        assert complaint in outcome.err

    @pytest.mark.parametrize(
        ("name", "value", "complaint"),
        [
            ("HYPERACT_TIMS", "3", "HYPERACT_TIMS, which no command knows, did you mean HYPERACT_TIMES?"),
            ("HYPERACT_TIMES", "x", "HYPERACT_TIMES: input should be a valid integer"),
            ("HYPERACT_MODELS", "a,b", "models"),
            ("HYPERACT_CONFIG", "none.toml", "HYPERACT_CONFIG: there is no file none.toml"),
        ],
    )
    def test_a_bad_variable_gives_one_line(
        self, hyperact: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
    ) -> None:
        """A container's environment is where typing errors hide longest."""
        monkeypatch.setenv(name, value)

        outcome = hyperact("greet")

        assert (2, 1) == (outcome.code, outcome.err.count("\n"))
        assert complaint in outcome.err
