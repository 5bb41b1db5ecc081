"""The selector grammar and what selections mean, on a small made-up offer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, SelectorError
from harness.kernel.selection import Policy, arrange, package_order, select
from harness.kernel.selector import SelectorKind, parse
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion

POLICY = Policy(
    longterm=frozenset({(5, 10), (6, 1), (6, 12)}), flavours=("cloud", "minimal", "generic"), oldest=(4, 12)
)


def offer(revision: str, flavour: str = "cloud", rank: int = 0, provider: str = "debian") -> Choice:
    upstream = KernelVersion.parse(revision.rpartition("-")[0])
    release = f"{upstream}-{flavour}-amd64"
    key = f"{release}={revision}"
    return Choice("", upstream, provider, key, flavour, release=release, revision=revision, rank=rank)


OFFERS = [
    offer("3.16.1-1"),
    offer("5.10.223-1"),
    offer("5.10.262-1", rank=1),
    offer("5.10.262-1", "generic", rank=1),
    offer("6.1.192-1", rank=2),
    offer("6.1.192-2", rank=3),
    offer("6.1.192-2", "generic", rank=3),
    offer("6.6.30-1", "minimal", provider="local"),
    offer("6.12.94-1~bpo12+1", rank=4),
    offer("6.12.94-1", rank=5),
    offer("6.12.117-1", rank=6),
    offer("7.3~rc7-1~exp1", rank=7),
]


def chosen(text: str) -> list[str]:
    return [
        choice.key.partition("=")[2] + (f":{choice.flavour}" if choice.flavour != "cloud" else "")
        for item in parse(text)
        for choice in select(item, OFFERS, POLICY)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6.12", ["6.12.117-1"]),
        ("v6.12", ["6.12.117-1"]),
        ("6.1", ["6.1.192-2"]),
        ("6.1:generic", ["6.1.192-2:generic"]),
        ("debian:6.1:generic", ["6.1.192-2:generic"]),
        ("generic:6.1", ["6.1.192-2:generic"]),
        ("debian:generic:6.1", ["6.1.192-2:generic"]),
        ("6.6", ["6.6.30-1:minimal"]),
        ("debian:6.6", []),
        ("6.12.94", ["6.12.94-1"]),
        ("6.12.*", ["6.12.94-1", "6.12.117-1"]),
        ("6.12.94-1~bpo12+1", ["6.12.94-1~bpo12+1"]),
        ("6.1.192-cloud-amd64", ["6.1.192-2"]),
        ("7.3-rc7", ["7.3~rc7-1~exp1"]),
        (">=5.10,<6.12", ["5.10.262-1", "6.1.192-2", "6.6.30-1:minimal"]),
        (">= 5.10, < 6.12", ["5.10.262-1", "6.1.192-2", "6.6.30-1:minimal"]),
        (">=6.12,<=6.12.94", ["6.12.94-1"]),
        ("<=6.1", ["5.10.262-1", "6.1.192-2"]),
        (">6.1,!=6.6,<7.0", ["6.12.117-1"]),
        ("==6.12", ["6.12.117-1"]),
        ("debian:>=5.10,<6.12:generic", ["5.10.262-1:generic", "6.1.192-2:generic"]),
        ("all", ["5.10.262-1", "6.1.192-2", "6.6.30-1:minimal", "6.12.117-1", "7.3~rc7-1~exp1"]),
        ("oldest", ["5.10.262-1"]),
        ("newest", ["6.12.117-1"]),
        ("lts", ["5.10.262-1", "6.1.192-2", "6.12.117-1"]),
        ("5.10 6.1,6.12", ["5.10.262-1", "6.1.192-2", "6.12.117-1"]),
        ("3.16", []),
        ("6.12.95", []),
    ],
)
def test_what_a_selection_means(text: str, expected: list[str]) -> None:
    assert chosen(text) == expected


@pytest.mark.parametrize("text", ["", "  ", ",", " , "])
def test_an_empty_selection_is_refused(text: str) -> None:
    with pytest.raises(SelectorError, match="empty"):
        parse(text)


@pytest.mark.parametrize("text", ["6", "v7", "6.", "6.*"])
def test_a_major_number_alone_is_ambiguous(text: str) -> None:
    with pytest.raises(SelectorError, match="ambiguous") as caught:
        parse(text)
    assert ">=" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["latest", "6.1.2.3", ">=", ">=x", "6.1:", "6.1:GENERIC", "@", "bzImage", "~6.1", "6,1:x y"]
)
def test_malformed_selections_say_what_was_expected(text: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert caught.value.expected
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("./bzImage", SelectorKind.PATH),
        ("/boot/vmlinuz-6.1", SelectorKind.PATH),
        ("host", SelectorKind.HOST),
        ("@lock", SelectorKind.LOCK),
        ("@ci/k.lock", SelectorKind.LOCK),
    ],
)
def test_kinds_that_need_the_machine(text: str, kind: SelectorKind) -> None:
    assert [item.kind for item in parse(text)] == [kind]


def test_series_have_alternatives_of_their_flavour_and_exact_releases_have_none() -> None:
    [series] = select(parse("6.12")[0], OFFERS, POLICY)
    assert [stand_in.key.partition("=")[2] for stand_in in series.alternatives] == ["6.12.94-1", "6.12.94-1~bpo12+1"]
    [exact] = select(parse("6.12.94")[0], OFFERS, POLICY)
    assert exact.alternatives == ()


def test_labels_are_the_users_words_for_one_kernel_and_the_series_for_many() -> None:
    assert [choice.label for choice in select(parse("v6.12")[0], OFFERS, POLICY)] == ["v6.12"]
    assert [choice.label for choice in select(parse("lts")[0], OFFERS, POLICY)] == ["5.10", "6.1", "6.12"]
    assert [choice.label for choice in select(parse("6.12.*")[0], OFFERS, POLICY)] == ["6.12.94", "6.12.117"]
    assert [choice.label for choice in select(parse("lts:generic")[0], OFFERS, POLICY)] == [
        "5.10:generic",
        "6.1:generic",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6.12", {"6.12.94": "6.12.94-1", "6.12.117": "6.12.117-1"}),
        (">=5.10,<6.6", {"5.10.223": "5.10.223-1", "5.10.262": "5.10.262-1", "6.1.192": "6.1.192-2"}),
        ("lts:generic", {"5.10.262:generic": "5.10.262-1", "6.1.192:generic": "6.1.192-2"}),
        ("newest", {"6.12.117": "6.12.117-1"}),
        ("6.12.94", {"6.12.94": "6.12.94-1"}),
        ("6.12.94-1~bpo12+1", {"6.12.94-1~bpo12+1": "6.12.94-1~bpo12+1"}),
    ],
)
def test_every_release_of_what_is_named(text: str, expected: dict[str, str]) -> None:
    found = select(parse(text)[0], OFFERS, POLICY, every=True)
    assert {one.label: one.key.partition("=")[2] for one in found} == expected


def test_every_release_of_a_series_is_of_one_flavour() -> None:
    offers = [*OFFERS, offer("6.1.193-1", "minimal", rank=4), offer("6.1.191-1", "generic", rank=1)]
    found = select(parse("6.1")[0], offers, POLICY, every=True)
    assert [(str(one.version), one.flavour) for one in found] == [("6.1.192", "cloud")]
    assert [one.key.partition("=")[2] for one in found[0].alternatives] == ["6.1.192-1"]


def choice(label: str, version: str, key: str, flavour: str = "cloud") -> Choice:
    return Choice(label, KernelVersion.parse(version), "debian", key, flavour)


def test_arranged_choices_are_sorted_unique_and_have_distinct_labels() -> None:
    arranged = arrange(
        [
            choice("6.12", "6.12.117", "a"),
            choice("5.10", "5.10.262", "b"),
            choice("6.12.117", "6.12.117", "a"),
            choice("6.1", "6.1.1", "c"),
            choice("6.1", "6.1.2", "d"),
            choice("k", "6.6", "e"),
            choice("k", "6.6", "f"),
        ]
    )
    assert [one.key for one in arranged] == ["b", "c", "d", "e", "f", "a"]
    labels = [one.label for one in arranged]
    assert labels[:3] == ["5.10", "6.1=6.1.1", "6.1=6.1.2"]
    assert labels[-1] == "6.12"
    assert len(set(labels)) == len(labels)


versions = st.builds(
    KernelVersion, st.integers(2, 9), st.integers(0, 20), st.integers(0, 300), st.sampled_from([10_000, 1, 7])
)


@given(versions)
def test_versions_read_back_as_they_are_written(version: KernelVersion) -> None:
    assert KernelVersion.parse(str(version)) == version


@given(st.text())
def test_any_text_is_parsed_or_refused_with_a_clear_error(text: str) -> None:
    items = []
    error: HarnessError | None = None
    try:
        items = parse(text)
    except HarnessError as caught:
        error = caught
    assert bool(items) != bool(error)
    assert error is None or (isinstance(error, SelectorError) and error.what)


@given(
    st.lists(versions, min_size=1, max_size=30),
    st.sampled_from(["all", "lts", "oldest", "newest", ">=4.12", "<7.0,>=5.0"]),
)
def test_one_release_of_each_series_in_order_and_no_newer_one_left_out(known: list[KernelVersion], text: str) -> None:
    offers = [Choice("", version, "debian", str(version), "cloud", rank=rank) for rank, version in enumerate(known)]
    [item] = parse(text)
    result = select(item, offers, POLICY)
    series = [one.version.series for one in result]
    assert series == sorted(set(series))
    for one in result:
        rivals = [
            version for version in known if version.series == one.version.series and version.series >= POLICY.oldest
        ]
        assert one.version == max(rivals)
        assert {stand_in.version.series for stand_in in one.alternatives} <= {one.version.series}


@given(st.permutations(OFFERS), st.sampled_from(["all", "lts", "6.12", ">=5.10", "6.12.*"]))
def test_the_order_of_offers_does_not_matter(offers: list[Choice], text: str) -> None:
    [item] = parse(text)
    assert select(item, offers, POLICY) == select(item, OFFERS, POLICY)


# distributions

_ALMA = [
    Choice("", KernelVersion(5, 14), "alma9", revision, "generic", revision=revision, rank=rank)
    for rank, revision in enumerate(("5.14.0-362.8.1.el9_3", "5.14.0-427.13.1.el9_4", "5.14.0-503.11.1.el9_5"))
]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("alma9", ["alma9"]),
        ("alma9:5.14", ["alma9:5.14"]),
        ("alma9:newest", ["alma9:5.14"]),
        ("alma9:*", ["alma9:5.14.0-362.8.1.el9_3", "alma9:5.14.0-427.13.1.el9_4", "alma9:5.14.0-503.11.1.el9_5"]),
        ("alma9:5.14.0-427.13.1.el9_4", ["alma9:5.14.0-427.13.1.el9_4"]),
        ("alma9:6.1", []),
    ],
)
def test_a_distribution_and_the_releases_in_it(text: str, labels: list[str]) -> None:
    [item] = parse(text)
    assert item.provider == "alma9"
    assert [choice.label for choice in select(item, _ALMA, POLICY)] == labels


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        ("alma9", "5.14.0-503.11.1.el9_5"),
        ("alma9:>=5.14.0-362,<5.14.0-503", "5.14.0-427.13.1.el9_4"),
        ("alma9:<=5.14.0-427", "5.14.0-427.13.1.el9_4"),
        ("alma9:<5.14.0-427", "5.14.0-362.8.1.el9_3"),
        ("alma9:>5.14.0-427,<6.0", "5.14.0-503.11.1.el9_5"),
    ],
)
def test_within_a_distribution_package_versions_have_an_order(text: str, revision: str) -> None:
    [item] = parse(text)
    assert [choice.revision for choice in select(item, _ALMA, POLICY)] == [revision]


@pytest.mark.parametrize("name", ["ubuntu24.04", "debian11", "fedora43", "al2023", "uek8", "centos-stream9"])
def test_names_of_distributions(name: str) -> None:
    [item] = parse(name)
    assert (item.kind, item.provider) == (SelectorKind.DISTRIBUTION, name)


def test_the_order_of_package_versions_is_rpms() -> None:
    ordered = ["5.14.0~rc1-1", "5.14.0-1", "5.14.0-1.el9", "5.14.0-9.1.el9", "5.14.0-10.el9", "5.15.0-1"]
    assert sorted(sorted(ordered), key=package_order) == ordered
    assert sorted(ordered) != ordered


def test_a_range_of_package_versions_needs_a_distribution() -> None:
    with pytest.raises(SelectorError, match="not a kernel version"):
        parse(">=5.14.0-427")
