"""What JupyterLab writes of the project's notebooks: cells without outputs, as git holds them."""

from __future__ import annotations

from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""Without versions, which differ between machines."""


def without_outputs(model: dict[str, Any], **_: Any) -> None:
    """Removes outputs and what a session adds from a notebook that is about to be saved.

    A pre-save hook of Jupyter's contents manager; it changes `model` in place. Notebooks without a
    cell tagged `parameters` are the user's own and stay as they are.
    """
    content = model.get("content")
    if model.get("type") != "notebook" or content is None:
        return
    tags = [cell["metadata"].get("tags", []) for cell in content["cells"]]
    if not any("parameters" in each for each in tags):
        return
    content["metadata"] = METADATA
    for cell, own in zip(content["cells"], tags, strict=True):
        cell["metadata"] = {"tags": own} if own else {}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
