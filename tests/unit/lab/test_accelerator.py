"""KVM is used only after it has proved itself, and asked only once for each boot of the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmend.core import document
from kmend.lab import accelerator
from kmend.lab.accelerator import Trial, choose, decide
from kmend.lab.errors import BootTimeoutError


def accessible(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(os, "access", lambda *_: answer)


def counting(calls: list[float], problem: Exception | None = None) -> Callable[[float], None]:
    def trial(seconds: float) -> None:
        calls.append(seconds)
        if problem is not None:
            raise problem

    return trial


def test_decisions() -> None:
    verdict = Trial("boot", "kvm", "")
    assert decide(verdict, "boot", accessible=True) == verdict
    assert decide(verdict, "another boot", accessible=True) is None
    assert decide(None, "boot", accessible=True) is None
    assert decide(verdict, "boot", accessible=False) == Trial("boot", "tcg", "/dev/kvm is not there or may not be used")


def test_without_kvm_nothing_is_tried(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accessible(monkeypatch, False)
    calls: list[float] = []
    assert choose(counting(calls)) == "tcg"
    assert calls == []


def test_a_trial_that_succeeds_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accessible(monkeypatch, True)
    calls: list[float] = []
    assert [choose(counting(calls)) for _ in range(3)] == ["kvm"] * 3
    assert calls == [accelerator.TRIAL_SECONDS]


def test_a_trial_that_fails_is_remembered_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accessible(monkeypatch, True)
    calls: list[float] = []
    failing = counting(calls, BootTimeoutError("the guest did not come up"))
    assert [choose(failing) for _ in range(2)] == ["tcg"] * 2
    assert len(calls) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"boot_id": 1}', document.encode(Trial("old boot", "kvm", ""))])
def test_what_cannot_be_used_is_tried_again(cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    accessible(monkeypatch, True)
    (cache / "lab").mkdir(parents=True)
    (cache / "lab/accelerator.json").write_bytes(content)
    calls: list[float] = []
    choose(counting(calls))
    assert len(calls) == 1
