"""For the tests of programs that use graft_vfs, or have an object store of their own.

    store_contract   what every object store must do, as classes to inherit in a pytest suite
    WrapperStore     a store that passes everything on, to fail, delay or record requests

It may import stores and formats, and only tests import it. `store_contract` needs pytest; the rest
does not, and this module does not import it.
"""

import sys

from graft_vfs.store.wrapper import WrapperStore

__all__ = ["WrapperStore"]

if "pytest" in sys.modules:
    # So that a failing assertion of the contract shows its values, as those of a test module do.
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.store_contract")
