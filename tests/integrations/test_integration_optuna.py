"""Optuna keeps its studies on a volume: processes share one, and each trial is there at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("optuna", reason="the test extra is not installed")

_WORKER = """
import sys
import warnings

warnings.simplefilter("ignore")
import optuna

import graft_vfs

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(
    study_name="shared", storage=sys.argv[1], direction="minimize", load_if_exists=True
)

def objective(trial):
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 0, 3)
    for step in range(2):
        trial.report(x * step, step)
    trial.set_user_attr("worker", sys.argv[2])
    return x * x + y

study.optimize(objective, n_trials=int(sys.argv[3]))
"""

_REPORT = """
import sys
import warnings

warnings.simplefilter("ignore")
import optuna

study = optuna.load_study(study_name="shared", storage=sys.argv[1])
done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
print(len(done), len(study.trials), sorted({trial.number for trial in done})[-1])
print(*sorted({trial.user_attrs["worker"] for trial in done}))
print(all(len(trial.intermediate_values) == 2 for trial in done))
"""


def optimised(environment, directory, url, *, workers, trials):
    """Have workers run trials of one study at once, and return what it holds then."""
    environment = {**environment, "PYTHONWARNINGS": "ignore"}

    def started(program, *arguments):
        return subprocess.Popen(
            [sys.executable, "-c", program, url, *map(str, arguments)],
            env=environment,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(process):
        output, _ = process.communicate()
        return process.returncode, output

    # Optuna's processes must not make the tables at once, on any database.
    results = [ended(started(_WORKER, "first", 0))]
    results += [
        ended(process) for process in [started(_WORKER, each, trials) for each in range(workers)]
    ]
    results.append(ended(started(_REPORT)))
    failures = [output[-3000:] for code, output in results if code]
    assert not failures, "\n\n".join(failures)
    return results[-1][1].splitlines()


def _told(workers, trials):
    total = workers * trials
    return [f"{total} {total} {total - 1}", " ".join(map(str, range(workers))), "True"]


def test_processes_share_a_study(environment, tmp_path):
    url = "graft://study?timeout=120"
    assert optimised(environment, tmp_path, url, workers=2, trials=3) == _told(2, 3)


@pytest.mark.deep
@pytest.mark.parametrize("parameters", ["", "&isolation_level=IMMEDIATE"])
def test_four_processes_finish_every_trial(environment, tmp_path, parameters):
    url = f"graft://study?timeout=120{parameters}"
    assert optimised(environment, tmp_path, url, workers=4, trials=50) == _told(4, 50)
