"""A function that greets: blixard function deploy hello examples/hello.py"""

import os

calls = 0  # lives as long as the microVM stays warm


def handler(event, context):
    global calls
    calls += 1
    name = event.get("name", "world")
    print(f"greeting {name}, {context.get_remaining_time_in_millis()} ms left")
    return {"greeting": f"Hello, {name}", "instance": os.uname().nodename, "calls": calls}
