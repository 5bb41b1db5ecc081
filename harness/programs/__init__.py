"""Test programs as pytest items: the ini setting `harness_programs`, and the collection of what it names.

A pytest plugin, which the package's own plugin loads where the setting names something.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Generator
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.programs.collect import ProgramFile
from harness.programs.settings import Named, find, parse
from harness.pytest_plugin.options import PROGRAMS_SETTING


def pytest_configure(config: pytest.Config) -> None:
    """Find the programs."""
    try:
        found, without = find([parse(line) for line in config.getini(PROGRAMS_SETTING)], config.rootpath)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from None
    for pattern in without if not hasattr(config, "workerinput") else ():
        config.issue_config_time_warning(
            pytest.PytestConfigWarning(f"{PROGRAMS_SETTING}: there is no file {pattern}; are the programs built?"),
            stacklevel=2,
        )
    if config.args_source is config.ArgsSource.TESTPATHS:
        # Nothing was named on the command line, and then all tests are meant.
        places = [Path(place) for place in config.args]
        config.args += [str(path) for path in found if not any(place in (path, *path.parents) for place in places)]
    config.pluginmanager.register(ProgramCollector(config, found), "harness-programs-collection")


class ProgramCollector:
    """Collects the programs.

    Args:
        config: pytest's.
        found: Their files, each with its line of the setting.
    """

    def __init__(self, config: pytest.Config, found: dict[Path, Named]) -> None:
        self._found = found
        self._above = {folder for path in found for folder in path.parents}
        self._not_entered: list[str] = config.getini("norecursedirs")
        self._opened: set[Path] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Enter folders such as `build`, which pytest does not enter, for the programs in them alone."""
        if collection_path in self._found:
            return None
        if collection_path in self._above:
            if self._opened.isdisjoint(collection_path.parents) and not any(
                fnmatch.fnmatch(collection_path.name, pattern) for pattern in self._not_entered
            ):
                return None
            self._opened.add(collection_path)
            return False
        return True if not self._opened.isdisjoint(collection_path.parents) else None

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect a program."""
        named = self._found.get(file_path)
        if named is None:
            return None
        program: ProgramFile = ProgramFile.from_parent(parent, path=file_path)
        program.named = named
        return program

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Name the program where a test was skipped, not the function that ran it."""
        report = yield
        if isinstance(item.parent, ProgramFile) and report.skipped and isinstance(report.longrepr, tuple):
            report.longrepr = (str(item.path), 0, report.longrepr[2])
        return report
