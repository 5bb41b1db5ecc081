"""The interactive prompt, in a guest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import KernelCrashed
from harness.remote.prompt import GuestPrompt, PromptReply
from harness.testing import Bpf
from harness.vm.machine import Machine

READY = "/tmp/ready"
LASTING = f"open({READY!r}, 'w').close(); time.sleep(1000)"
STUBBORN = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {LASTING}"


def answer_of(prompt: GuestPrompt) -> PromptReply:
    """Wait for what was started."""
    while (answer := prompt.poll(30.0)) is None:
        pass
    return answer


def run(prompt: GuestPrompt, source: str) -> PromptReply:
    prompt.begin("run", source)
    return answer_of(prompt)


def begin_lasting(vm: Machine, prompt: GuestPrompt, source: str) -> None:
    """Begin what does not end, and wait until it has begun."""
    other = GuestPrompt(vm)
    prompt.begin("run", source)
    while run(other, f"os.path.exists({READY!r})").stdout != "True\n":
        assert prompt.poll(0.01) is None


@pytest.fixture
def prompt(vm: Machine) -> GuestPrompt:
    return GuestPrompt(vm)


def test_it_runs_in_the_guest_and_keeps_names(prompt: GuestPrompt) -> None:
    assert run(prompt, "release = os.uname().release") == PromptReply("", "")
    assert run(prompt, "release") == PromptReply(f"{prompt.release!r}\n", "")


def test_it_sees_the_maps_of_the_test(prompt: GuestPrompt, bpf: Bpf) -> None:
    held = bpf.map("array", max_entries=3)
    assert run(prompt, f"bpf.map_info(bpf.map_fd_by_id({held.id}))['max_entries']").stdout == "3\n"


def test_an_error_is_shown_and_the_prompt_continues(prompt: GuestPrompt) -> None:
    answer = run(prompt, "bpf.map_create('hash', 0, 4, 1)")
    assert answer.raised
    assert "OSError: [Errno 22] BPF_MAP_CREATE: Invalid argument" in answer.stderr
    assert run(prompt, "6 * 7").stdout == "42\n"


def test_a_program_of_the_guest_runs(prompt: GuestPrompt) -> None:
    prompt.begin("command", ["python3", "-c", "import os; print(os.getuid())"])
    assert answer_of(prompt) == PromptReply("0\n", "")


def test_a_program_of_the_host_is_sent_once_and_runs(prompt: GuestPrompt) -> None:
    sent = shutil.which("getconf")  # busybox, which may be in the guest, has none
    prompt.begin("command", ["getconf", "CHAR_BIT"])
    assert answer_of(prompt) == PromptReply("8\n", f"(sent {sent} to the guest)\n")
    prompt.begin("command", ["getconf", "CHAR_BIT"])
    assert answer_of(prompt) == PromptReply("8\n", "")


def test_a_value_that_cannot_be_sent_is_refused_and_the_prompt_continues(prompt: GuestPrompt, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    prompt.begin("command", [str(script)])
    answer = answer_of(prompt)
    assert answer.raised
    assert "cannot be pushed as a program" in answer.stderr
    assert run(prompt, "6 * 7").stdout == "42\n"


def test_a_missing_program_is_named(prompt: GuestPrompt) -> None:
    prompt.begin("command", ["no-such-program"])
    assert answer_of(prompt).stderr.startswith("no-such-program: No such file or directory")


def test_an_interrupt_ends_what_runs_and_keeps_the_names(prompt: GuestPrompt, vm: Machine) -> None:
    run(prompt, "x = 1")
    begin_lasting(vm, prompt, LASTING)
    prompt.interrupt()
    answer = answer_of(prompt)
    assert answer.raised
    assert "KeyboardInterrupt" in answer.stderr
    assert run(prompt, "x").stdout == "1\n"


def test_what_does_not_heed_an_interrupt_is_killed_by_the_second(prompt: GuestPrompt, vm: Machine) -> None:
    begin_lasting(vm, prompt, STUBBORN)
    prompt.interrupt()
    assert prompt.poll(0.3) is None
    prompt.interrupt()
    answer = answer_of(prompt)
    assert answer.raised
    assert "killed by signal 9" in answer.stderr
    assert run(prompt, "6 * 7").stdout == "42\n"


def test_a_process_that_ends_itself_is_replaced(prompt: GuestPrompt) -> None:
    answer = run(prompt, "os._exit(3)")
    assert "exit status 3" in answer.stderr
    assert run(prompt, "6 * 7").stdout == "42\n"


def test_asking_to_leave_is_passed_on(prompt: GuestPrompt) -> None:
    assert run(prompt, "exit()").leave


def test_the_kernels_log_can_be_read(prompt: GuestPrompt) -> None:
    run(prompt, "Path('/dev/kmsg').write_text('harness was here\\n')")
    assert run(prompt, "dmesg(1)").stdout.endswith("harness was here\n")


def test_names_are_completed(prompt: GuestPrompt) -> None:
    assert [word.rstrip("(") for word in prompt.complete("bpf.map_fre")] == ["bpf.map_freeze"]


@pytest.mark.expects_fault("panic", reason="the prompt crashes the kernel on purpose")
def test_a_crash_is_a_crash(prompt: GuestPrompt) -> None:
    with pytest.raises(KernelCrashed, match=r"sysrq triggered crash|NULL pointer"):
        run(prompt, "Path('/proc/sysrq-trigger').write_text('c')")
