"""What a probe's answer means on a kernel of some version."""

from __future__ import annotations

from errno import E2BIG, EINVAL
from unittest.mock import Mock

import pytest

from harness.errors import UsageError
from harness.features.capabilities import CAPABILITIES, find, judge
from harness.features.capability import Availability, Capability, Decision, ProbeResult
from harness.features.parts import PARTS
from harness.kernel.version import KernelVersion

YES, NO, UNKNOWN = (
    ProbeResult(answer, "EINVAL") for answer in (Availability.YES, Availability.NO, Availability.INCONCLUSIVE)
)


@pytest.mark.parametrize(
    ("name", "finding", "version", "config", "expected"),
    [
        ("batch_ops", YES, "5.10.1", None, Decision.RUN),
        ("batch_ops", YES, "4.18", None, Decision.RUN),
        ("batch_ops", NO, "5.5.19", None, Decision.SKIP),
        ("batch_ops", NO, "5.6", None, Decision.FAIL),
        ("batch_ops", UNKNOWN, "5.5", None, Decision.INCONCLUSIVE),
        ("batch_ops", NO, "5.6-rc3", {}, Decision.FAIL),
        ("btf", NO, "6.1", {"BPF": "y"}, Decision.SKIP),
        ("btf", NO, "6.1", {"DEBUG_INFO_BTF": "y"}, Decision.FAIL),
        ("btf", NO, "6.1", None, Decision.SKIP),
        ("interpreter", NO, "6.1", {"BPF_JIT_ALWAYS_ON": "y"}, Decision.SKIP),
        ("interpreter", NO, "6.1", {"BPF": "y"}, Decision.FAIL),
        ("interpreter", NO, "6.1", None, Decision.SKIP),
        ("timer_programs", NO, "6.1", {"PREEMPT_RT": "y"}, Decision.SKIP),
        ("timer_programs", NO, "6.1", {"PREEMPT": "y"}, Decision.FAIL),
        ("timer_memory", NO, "7.2", {"HAVE_CMPXCHG_DOUBLE": "y", "PREEMPT_RT": "y"}, Decision.SKIP),
        ("timer_memory", NO, "7.2", {"HAVE_CMPXCHG_DOUBLE": "y"}, Decision.FAIL),
        ("timer_memory", NO, "7.2", {"PREEMPT": "y"}, Decision.SKIP),
        ("map_arena", NO, "7.2", {"BPF_JIT": "y"}, Decision.SKIP),
        ("wide_words", NO, "6.12", {"BPF_JIT": "y"}, Decision.SKIP),
        ("compiled_functions", NO, "6.12", {"BPF_JIT": "y"}, Decision.SKIP),
        ("map_bloom_filter", NO, "7.2", {"BPF_JIT": "y"}, Decision.FAIL),
        ("map_sockmap", NO, "5.4", {"INET": "y"}, Decision.SKIP),
        ("map_sockmap", NO, "5.4", {"INET": "y", "BPF_STREAM_PARSER": "y"}, Decision.FAIL),
        ("map_task_storage", NO, "5.11", {"BPF": "y"}, Decision.SKIP),
        ("user_namespaces", NO, "6.1", {"BPF": "y"}, Decision.SKIP),
        ("user_namespaces", NO, "6.1", {"USER_NS": "y"}, Decision.SKIP),
        ("user_namespaces", NO, "6.1", None, Decision.SKIP),
        ("user_namespaces", UNKNOWN, "6.1", None, Decision.INCONCLUSIVE),
    ],
)
def test_a_no_is_a_reason_to_skip_only_where_it_is_expected(
    name: str, finding: ProbeResult, version: str, config: dict[str, str] | None, expected: Decision
) -> None:
    judgement = judge(name, finding, KernelVersion.parse(version), config)
    assert judgement.decision is expected
    assert name in judgement.reason
    assert "EINVAL" in judgement.reason


def test_the_reason_names_where_it_came_from() -> None:
    reason = judge("freeze", NO, KernelVersion.parse("5.1"), None).reason
    assert "in v5.2, commit 87df15de441b" in reason


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("user_namespaces", {"BPF": "y"}, "it was built without CONFIG_USER_NS"),
        (
            "user_namespaces",
            {"USER_NS": "y"},
            "it was booted without, or its architecture cannot, although it was built with CONFIG_USER_NS",
        ),
        ("user_namespaces", None, "its configuration is unknown, CONFIG_USER_NS may be off"),
        ("expedited_waits", {"TINY_RCU": "y"}, "it was built with CONFIG_TINY_RCU"),
        ("jit_switch", {"BPF_JIT": "y"}, "it was built without CONFIG_PROC_SYSCTL"),
        ("jit_switch", {"BPF": "y"}, "it was built without CONFIG_BPF_JIT and CONFIG_PROC_SYSCTL"),
        ("interpreter", {"BPF_JIT_ALWAYS_ON": "y"}, "it was built with CONFIG_BPF_JIT_ALWAYS_ON"),
        ("interpreter", None, "its configuration is unknown, CONFIG_BPF_JIT_ALWAYS_ON may be on"),
        ("jit_switch", None, "its configuration is unknown, CONFIG_BPF_JIT or CONFIG_PROC_SYSCTL may be off"),
    ],
)
def test_the_reason_names_the_symbols_of_what_is_missing(name: str, config: dict[str, str] | None, words: str) -> None:
    reason = judge(name, NO, KernelVersion.parse("6.1"), config).reason
    assert reason.startswith(f"6.1 lacks {name}: ")
    assert reason.endswith(words)


def test_every_part_has_a_symbol() -> None:
    assert [name for name, part in PARTS.items() if not part.config or not part.is_part] == []


@pytest.mark.parametrize(
    ("errno", "answer"),
    [(0, Availability.YES), (E2BIG, Availability.NO), (EINVAL, Availability.YES)],
    ids=["two CPUs or more", "one CPU", "no cpumaps"],
)
def test_a_cpumap_has_no_more_elements_than_there_can_be_cpus(errno: int, answer: Availability) -> None:
    bpf = Mock()
    bpf.commands.attempt.return_value.errno = errno
    assert find("cpumap_of_two").probe(bpf).answer is answer


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'batch_ops'"):
        find("batch_op")


def test_every_version_is_one() -> None:
    for capability in CAPABILITIES.values():
        assert str(KernelVersion.parse(capability.since)) == capability.since


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.0", False),
        ("6.0.7", True),
        ("6.0.6", False),
        ("6.1", True),
        ("6.12.9", True),
        ("6.12.10", False),
        ("6.13", True),
        ("7.0-rc1", False),
        ("7.2", False),
    ],
)
def test_a_mistake_comes_and_goes_and_stable_series_differ(version: str, expected: bool) -> None:
    mistake = Capability(
        "A mistake.",
        "6.1",
        "commit 0123456789ab",
        lambda _: YES,
        until="7.0",
        backports=("6.0.7",),
        fixes=("6.12.10",),
    )
    assert mistake.expected(KernelVersion.parse(version)) is expected
