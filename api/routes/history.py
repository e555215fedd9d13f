"""Conversations."""

from __future__ import annotations

from flask import Response

from api.identity import caller
from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.schemas import HistoryTurn, HistoryView, UserPath, iso


def routes() -> list[Route]:
    rule = "/api/history/<user_id>"
    return [
        Route("GET", rule, get_history, "history", {200: HistoryView}),
        Route("DELETE", rule, delete_history, "history", {204: None}),
    ]


def get_history(path: UserPath) -> Response:
    """Get a user's conversation.

    What later prompts of that user see, oldest turn first; empty for a user who has none.
    """
    turns = services().store.history(caller().tenant, path.user_id)
    views = [
        HistoryTurn(input=t.input, output=t.output, mode=t.mode, job_id=t.job_id, created_at=iso(t.created_at))
        for t in turns
    ]
    return answer(HistoryView(user_id=path.user_id, history=views))


def delete_history(path: UserPath) -> Response:
    """Forget a user's conversation.

    204, also where there was none.
    """
    services().store.delete_history(caller().tenant, path.user_id)
    return Response(status=204)
