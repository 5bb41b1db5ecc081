"""A project's objects in one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.check import kernels
from harness.check.config import read_config
from harness.check.results import Result
from harness.cli import main
from harness.errors import UsageError
from harness.machines.pool import Settings

FILE = """
kernel = ["6.1", "6.12"]
attach = true

[[object]]
path = "build/a.bpf.o"
inner = ["traced=hash:4:4:8"]
attach = false

[[object]]
path = "b.bpf.c"
D = ["X=1", "Y"]
I = "include"
memory = 512
run-loader = "./loader {object}"
"""


def test_keys_are_options_and_paths_are_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "check.toml").write_text(FILE)
    run, objects = read_config(tmp_path / "check.toml")
    assert run == ["--kernel=6.1", "--kernel=6.12"]
    assert objects == [
        [f"{tmp_path}/build/a.bpf.o", "--inner=traced=hash:4:4:8"],
        [
            f"{tmp_path}/b.bpf.c",
            *("--attach", "-DX=1", "-DY", f"-I{tmp_path}/include", "--memory=512"),
            f"--run-loader={tmp_path}/loader {{object}}",
        ],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no object"),
        ("object = 1", "names no object"),
        ("[[object]]\nattach = true", "object 1 has no path"),
        ('[[object]]\npath = "x"\nkernel = "6.1"', "kernel of object 1 is for the whole run"),
        ('[[object]]\npath = "x"\nmap = [{ a = 1 }]', "is not usable"),
        ("[[object", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "check.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(tmp_path / "check.toml")


def test_the_command_refuses_what_contradicts_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "check.toml"
    file.write_text('[[object]]\npath = "x.bpf.o"\nno-such-option = 1\n')
    with pytest.raises(SystemExit) as caught:
        main(["check", "--config", str(file)])
    assert caught.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err
    file.write_text('[[object]]\npath = "x.bpf.o"\n')
    assert main(["check", "--config", str(file)]) == 2
    assert "x.bpf.o cannot be read" in capsys.readouterr().err
    assert main(["check", "--config", str(file), "--attach"]) == 2
    assert "attach of the command line" in capsys.readouterr().err
    assert main(["check", "--config", str(file), "x.bpf.o"]) == 2
    assert main(["check"]) == 2
    assert "an object or a file of objects" in capsys.readouterr().err
    assert main(["check", "x.bpf.c", "--loader-alive=3"]) == 2
    assert "no loader is given" in capsys.readouterr().err


def test_how_machines_are_run_is_said_for_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Settings] = []

    def tried(plans: object, selectors: object, settings: Settings, **_: object) -> list[Result]:
        del plans, selectors
        said.append(settings)
        return []

    monkeypatch.setattr(kernels, "check_on_kernels", tried)
    file = tmp_path / "check.toml"
    file.write_text('accel = "tcg"\nboot-timeout = 300\n[[object]]\npath = "x.bpf.o"\n')
    assert main(["check", "--config", str(file)]) == 0
    assert main(["check", "--config", str(file), "--boot-timeout=400"]) == 0
    assert said == [Settings(accel="tcg", boot_timeout=300), Settings(accel="tcg", boot_timeout=400)]
    file.write_text('[[object]]\npath = "x.bpf.o"\nboot-timeout = 300\n')
    assert main(["check", "--config", str(file)]) == 2
    with pytest.raises(SystemExit) as caught:
        main(["check", "x.bpf.o", "--boot-timeout=0"])
    assert caught.value.code == 2
