"""Where to run, as text; what runners print, as figures."""

from __future__ import annotations

import pytest

from graphopt.errors import RunError, UsageError
from graphopt.runtime.places.place import read_place
from graphopt.runtime.places.runner_output import profile_in, times_in

GOOD = {
    "host": ("host", "host", ""),
    "tx2@emulated": ("tx2", "emulated", ""),
    "kirin990@ssh:root@10.0.0.7": ("kirin990", "ssh", "root@10.0.0.7"),
    "rpi4@ssh:pi": ("rpi4", "ssh", "pi"),
    "rpi5@ssh:pi@board.local:2222": ("rpi5", "ssh", "pi@board.local:2222"),
    "tx2@rpc:192.168.1.20:9090": ("tx2", "rpc", "192.168.1.20:9090"),
}
BAD = {
    "tx2": "tx2@emulated counts",
    "tx3@emulated": "tx2",
    "tx2-gpu@emulated": "GPU is neither emulated",
    "kirin990-gpu@rpc:a:1": "GPU is neither emulated",
    "tx2@board": "after the @ comes emulated, ssh, rpc",
    "rpc:192.168.1.20:9090": "say which board is there, as in tx2@rpc:192.168.1.20:9090",
    "host@emulated": "host is this machine",
    "tx2@emulated:3": "nothing comes after emulated",
    "tx2@rpc:192.168.1.20": "write rpc:ADDRESS:PORT",
    "tx2@ssh:": "write ssh:USER@ADDRESS",
    "tx2@ssh:-oProxyCommand=x": "write ssh:USER@ADDRESS",
    "tx2@ssh:a b": "write ssh:USER@ADDRESS",
    "tx2@ssh:a;reboot": "write ssh:USER@ADDRESS",
}


@pytest.mark.parametrize("text", GOOD)
def test_places(text: str) -> None:
    place = read_place(text)
    assert (place.board.name, place.kind, place.address) == GOOD[text]
    assert str(place) == text


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(UsageError, match=BAD[text]):
        read_place(text)


RUN = """12 layers, 4 threads, 4 of them bound to a core, 3.1 MB of memory; ready in 4.6 ms
check y: deviation 1.2e-07, may be 0.0002: ok
latency: median 12.345 ms, mean 13.000, least 11.500, 90 % below 14.000, most 20.000 (50 runs after 5)
"""
PROFILE = """latency: median 1.000 ms, mean 1.000, least 1.000, 90 % below 1.000, most 1.000 (12 runs after 5)
        ms      %       MMAC   GMAC/s  layer
    0.2500   25.0      1.000     4.00  conv 1, with a name
    0.7500   75.0      0.000     0.00  Resize_3
    1.0000  in all, mean of 12 runs
"""


def test_what_a_runner_prints() -> None:
    times = times_in(RUN, profile=PROFILE)
    assert (times.median, times.least, times.runs, times.threads) == (12.345, 11.5, 50, 4)
    assert [(v.name, v.ms, v.macs) for v in times.layers] == [
        ("conv 1, with a name", 0.25, 1_000_000),
        ("Resize_3", 0.75, 0),
    ]
    assert profile_in(RUN) == []


def test_anything_else_is_quoted() -> None:
    with pytest.raises(RunError, match="it said: 'sh: ./run: not found'"):
        times_in("sh: ./run: not found\n")
