"""What the scripts of tools/ have in common."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted((ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_exit_statuses_have_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant):
            assert node.value.value in (0, None), f"{path.name}, line {node.lineno}"


@pytest.mark.parametrize(
    ("script", "module", "words"), [("run_net", "run", ["--cfg", "a.yaml"]), ("finetune", "finetune", ["folder"])]
)
def test_a_signal_while_python_ends_changes_no_status(script, module, words):
    program = (
        "import atexit, os, runpy, signal, sys\n"
        f"import videobench.engine.{module} as used\n"
        f"used.{module} = lambda *args, **options: 3\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        f"sys.argv = {[script, *words]!r}\n"
        f"runpy.run_path('tools/{script}.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
