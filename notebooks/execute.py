"""Run notebooks top to bottom and save them with what they show: python notebooks/execute.py [NOTEBOOK ...]."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
TIMEOUT = 600  # seconds a cell may take
# What a notebook says of where it ran: nothing that differs from one machine to the next.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


class ThisPython(KernelSpecManager):
    """One kernel: the interpreter that runs this, over this source tree, whatever else is installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel, under any name."""
        path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            env={"PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            display_name="Python 3",
            language="python",
        )


def execute(file: Path) -> nbformat.NotebookNode:
    """The notebook as it is after a run in its own folder, free of times, paths and versions; the file stays as it is.

    Raises nbclient's CellExecutionError when a cell fails.
    """
    notebook = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(file.parent)}}
    with tempfile.TemporaryDirectory() as aside:
        kernel = AsyncKernelManager(
            kernel_spec_manager=ThisPython(), transport="ipc", connection_file=str(Path(aside) / "kernel.json")
        )
        client = NotebookClient(notebook, kernel, timeout=TIMEOUT, resources=resources, record_timing=False)
        client.execute(cleanup_kc=True, env=os.environ | {"IPYTHONDIR": aside})  # nobody's start-up files or history
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main(words: list[str]) -> None:
    """Run the named notebooks, or all that lie beside this file, and save them in place."""
    for file in [Path(word) for word in words] or sorted(HERE.glob("*.ipynb")):
        nbformat.write(execute(file), file)
        print(f"{file.name} saved")


if __name__ == "__main__":
    main(sys.argv[1:])
