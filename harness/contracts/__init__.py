"""The contracts of map-in-map: what HASH_OF_MAPS and ARRAY_OF_MAPS promise on every kernel since v4.12.

Run them, from anywhere the package is installed: `pytest --pyargs harness.contracts --kernel=6.12`.

`tables/*.toml` hold the promises, one place for all that is known of versions; `test_*.py` take the observations and
have no version in them. A table's fields are those of :class:`harness.contracts.contract.Contract`; in TOML:

    [[contract]]
    id = "create.key_size_513"          # hom.create.key_size_513 and aom....; `each = [...]` adds a last word
    outer = ["hom"]                     # hom, aom, or mim for neither; both hom and aom when left out
    sentence = "A key may be 513 bytes long."
    takes = "errno"                     # errno, value, count, time
    requires = ["ids", "prog_{each}"]   # capabilities and parts of a kernel that asking needs
    requires_by_outer = { aom = ["wide_words"] }  # and those of one outer map
    requires_by_case = { link = ["cgroups"] }   # and those that single cases need
    since = "4.13"                      # versions that it can be asked of at all; also until
    expect = [
        { until = "5.11", answer = "E2BIG", source = "htab_map_alloc_check(), kernel/bpf/hashtab.c" },
        { since = "5.11", answer = "ok", source = "Linux kernel commit ... (in v5.11)" },
    ]                                   # a range whose answer is another promise has a `sentence` of its own
    backports = [{ since = "6.1.130", answer = "ok", source = "..." }]  # until the end of 6.1
    decided_by = "inner_max_entries"    # a probe, where versions mislead
    when = { yes = "ok", no = "EINVAL" }

A version that is in no range is one nobody has looked at: what is seen there is recorded as "observed".
"""

from __future__ import annotations

import functools
import sys
from importlib import resources

from harness.contracts.contract import Contract, read

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@functools.cache
def contracts() -> dict[str, Contract]:
    """Return every contract by its id.

    Raises:
        UsageError: A table is malformed.
    """
    files = sorted(resources.files(__name__).joinpath("tables").iterdir(), key=lambda file: file.name)
    return read((file.name, tomllib.loads(file.read_text(encoding="utf-8"))) for file in files)
