"""Several threads decode a type at once, also for the first time in the process."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from threading import Barrier, Thread
from clipstore.inference.plan_files import Plan
from clipstore.json_decoding import decode_json

sys.setswitchinterval(1e-6)
tower = b'{"tower":"text","fingerprint":"%s","precision":"fp32","dim":4}' % (b"a" * 64)
planned = b'{"model":{"name":"m","family":"clip","base":"b"},"tower":%s,"store_dtype":"float32"}' % tower
plan = b'{"store":"a","folder":"/s","memory":1,"source":"texts","towers":[%s],"contents":["%s"],"sources":["t"]}'
plan %= planned, b"b" * 64
barrier, plans = Barrier(16), []

def decode():
    barrier.wait()
    plans.append(decode_json(plan, Plan))

threads = [Thread(target=decode) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(plans) == 16 and all(one == plans[0] for one in plans)
"""


def test_threads_decode_a_type_for_the_first_time_together() -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=100)
