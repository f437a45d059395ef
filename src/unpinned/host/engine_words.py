"""The words of a device's engine block ``e``: its lock, who drives, who sleeps, and where its other blocks live.

Owner: the control plane writes addresses before any thread starts and E_STOP at the end. E_LOCK, E_HALT, E_EXECUTING,
E_DRIVING, E_SLEEPING, E_PROGRESS, E_WORK and E_POLLERS are shared and touched atomically; the rest belongs to the driver.
"""

from __future__ import annotations

from typing import Final

# where the other blocks live: address, length
E_H: Final = 0
E_P: Final = 2
E_B: Final = 4
E_UDP: Final = 6
E_COPY: Final = 8
E_SCAN: Final = 10
E_SOLVER: Final = 12
E_FILES: Final = 14  # of each region's slot: the file behind it (`holes`), 0 none

# shared
E_LOCK: Final = 16  # futex mutex: 0 free, 1 held, 2 held and somebody sleeps
E_HALT: Final = 17  # notifiers that want the device to stand still
E_EXECUTING: Final = 18  # 1 while the driver copies without the lock
E_DRIVING: Final = 19  # 1 while somebody drives
E_SLEEPING: Final = 20  # drivers asleep in ppoll
E_PROGRESS: Final = 21  # moves when completions came or the driver's role is free
E_WAITING: Final = 22  # pollers that wait for the driver's role, asleep on E_PROGRESS
E_WORK: Final = 23  # moves when a fault is queued
E_POLLERS: Final = 24  # callers inside poll
E_LAST_POLL: Final = 25  # when the last one left, ns
E_PAUSED: Final = 26  # while the background thread leaves the driving to pollers: 1 it looks again soon, 2 it wants to be told
E_STOP: Final = 27
E_THREADS: Final = 28  # threads inside kernels of this device
E_WAKE_FD: Final = 29  # eventfd that ends a driver's sleep
E_RESTING: Final = 30  # 1 while a poller sleeps in ppoll, for all of them
E_RESTERS: Final = 31  # pollers that rely on it, asleep on E_PROGRESS

# the driver's
E_RX_HI: Final = 32  # for whom the receive template stands
E_RX_LO: Final = 33
E_RX_PORT: Final = 34
E_RX_TEMPLATE: Final = 35  # its length, 0 none
E_TX_HI: Final = 36
E_TX_LO: Final = 37
E_TX_PORT: Final = 38
E_TX_TEMPLATE: Final = 39
E_LOCAL_HI: Final = 40  # our own address and port
E_LOCAL_LO: Final = 41
E_LOCAL_PORT: Final = 42
E_SCANS: Final = 43  # fault slots to scan after this burst: their number, then up to SCANS
E_SCAN_LIST: Final = 44
SCANS: Final = 8
E_COMPLETIONS: Final = 52  # completions when progress was last told
E_TX_ERRNO: Final = 53  # last error of a send
E_ROUNDS: Final = 54
E_SPIN_NS: Final = 55  # how long an idle driver looks before it sleeps
E_SLEEPS: Final = 56
E_HALTS: Final = 57  # times a notifier stopped the device
E_HALT_NS: Final = 58  # time it stood still, ns
E_HALT_MAX_NS: Final = 59
E_EVENTS_SEEN: Final = 60  # userfaultfd events applied
E_SUM_LENGTH: Final = 61  # for payloads of how many bytes the next word stands
E_SUM_CONSTANT: Final = 62  # `combine_constant` of them
E_MTU_ERRORS: Final = 63
E_SPIN_MISSES: Final = 64  # drives that spun for nothing, one after the other
E_SCANS_SEEN: Final = 65  # of the faults that wait to be looked at, how many the driver has seen when it last listed some
E_HORIZON_SINCE: Final = 66  # when the horizon last changed (`trust`)
E_MAJOR_FAULTS: Final = 67  # of the process, when copies last took long
E_UNTOLD: Final = 68  # open regions whose memory may leave without an event
E_NEARBY: Final = 69  # pages that a look had not found and that were there all the same (`nearby`), ever
E_RECORD: Final = 70  # address and length of the recorder's ring, 0 and any: nothing is recorded
E_WORDS: Final = 72

# the notifier's block g: devices it serves
G_LOCK: Final = 0
G_UFFD: Final = 1
G_STOP: Final = 2
G_WAKE_FD: Final = 3
G_COUNT: Final = 4
G_SCRATCH: Final = 5  # address of the event scratch
G_SCRATCH_LENGTH: Final = 6
G_EVENTS: Final = 7
G_ERRNO: Final = 8
G_THREADS: Final = 9
G_DEVICES: Final = 16  # addresses of engine blocks
DEVICES_MAX: Final = 64
G_WORDS: Final = G_DEVICES + DEVICES_MAX

# modes of engine.enter
MODE_FIRMWARE: Final = 0
MODE_POLL: Final = 1
MODE_POST: Final = 2
MODE_DRIVE: Final = 3
