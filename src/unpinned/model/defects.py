"""Seeded defects of the modelled host and device, by name: each is one `if` in a kernel of this package.

They exist to be found. W_DEFECT holds 1 + the index; `unpinned.check.mutants` says what each imitates and which world kills it.
"""

from typing import Final

DEFECTS: Final[tuple[str, ...]] = ()
