"""The tasks of the comparison, by name."""

from scripts.rivalry import function_task, graph_task, image_task, text_task

TASKS = {
    "function": function_task.TASK,
    "text": text_task.TASK,
    "image": image_task.TASK,
    "graph": graph_task.TASK,
}
