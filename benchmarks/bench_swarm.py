"""The swarm: schedules a second on one core, whether every invariant held, and what a page fault costs beside today's adapters.

Targets: a schedule of two HCAs in about a millisecond, so that a million take less than half an hour on two cores; packet
damming three to four orders of magnitude above a fault with the imitation, and gone with ours.
"""

import time

from _common import Figure, Options, main, say


def measure(options: Options) -> list[Figure]:
    from unpinned.swarm import comparison, jobs

    jobs.compile_once()
    count = options.pick(20_000, 200)
    jobs.run_range(1, 20, 2, 2, {})
    figures = []
    for name, hosts, connections, n in (
        ("2 HCAs", 2, 2, count),
        ("8 HCAs, 16 connections", 8, 16, max(1, count // 100)),
    ):
        began = time.process_time()
        result = jobs.run_range(1, n, hosts, connections, {})
        seconds = time.process_time() - began
        say(f"{name}: {n} schedules in {seconds:.1f} s of CPU")
        parts = {
            "schedules": result["played"],
            "cpu_seconds": round(seconds, 2),
            "steps": result["statistics"]["events"],
        }
        target = "<= 1.5" if hosts == 2 else ""
        figures.append(
            Figure(f"one schedule, {name}", 1000 * seconds / max(1, result["played"]), "ms of CPU", target, parts)
        )
        figures.append(
            Figure(f"broken invariants, {name}", len(result["failures"]), "", "== 0", {"failures": result["failures"]})
        )
    for row in comparison.rows():
        theirs, ours = row["theirs_faults"], row["ours_faults"]
        parts = {"theirs": row["theirs"], "ours": row["ours"], "fault_ns": comparison.FAULT_NS}
        dams = "behind it" in row["experiment"] or "never set" in row["experiment"]
        figures.append(
            Figure(f"{row['experiment']}: today, imitated", theirs, "faults", ">= 1000" if dams else "", parts)
        )
        figures.append(Figure(f"{row['experiment']}: ours", ours, "faults", "<= 2" if dams else ""))
    return figures


if __name__ == "__main__":
    main(measure, globals())
