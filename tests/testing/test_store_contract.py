"""What ships for the tests of other projects works outside of this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUITE = '''
import pytest

from graft_vfs.store import MemoryStore, PutOutcome
from graft_vfs.testing import WrapperStore
from graft_vfs.testing.store_contract import StoreContract


class Forgetful(WrapperStore):
    """Ignores the condition of create-only writes."""

    def put_if_absent(self, key, data):
        self.inner.put(key, [data])
        return PutOutcome.CREATED


class TestForgetful(StoreContract):
    @pytest.fixture
    def store(self, request):
        return Forgetful(MemoryStore.named(request.node.nodeid))

    again = store
'''


def run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


def test_another_project_s_suite_detects_a_faulty_store(tmp_path) -> None:
    (tmp_path / "test_ours.py").write_text(SUITE)
    only = "created or replaced or ranges"
    done = run("-m", "pytest", "-q", "-k", only, "-p", "no:cacheprovider", directory=tmp_path)
    assert "FAILED test_ours.py::TestForgetful::test_a_key_is_created_once" in done.stdout
    assert "assert <PutOutcome.CREATED: 'created'> is" in done.stdout, "assertions show values"
    assert "TestForgetful::test_ranges" not in done.stdout
    assert "passed" in done.stdout


def test_only_the_contract_imports_pytest(tmp_path) -> None:
    program = (
        "import sys, graft_vfs; assert 'graft_vfs.testing' not in sys.modules;"
        "import graft_vfs.testing; assert 'pytest' not in sys.modules"
    )
    assert run("-c", program, directory=tmp_path).returncode == 0
