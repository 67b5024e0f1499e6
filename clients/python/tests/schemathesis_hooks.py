"""Keeps requests that are made up from ending the session that they are made to."""

from typing import Any

import schemathesis


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    return not (isinstance(body, dict) and body.get("command") == "stop")
