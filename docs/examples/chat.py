"""Posts to a chat when a grant needs a login. Bound in evergrant.toml; see docs/actions.md."""

import httpx


async def post(event, api):
    """Tell the team's chat whose integration stopped working, and why."""
    text = (
        f"{event.user_id or 'someone'} has to log in again with {event.connection}"
        f" ({event.detail.get('reason', 'no reason given')})"
    )
    async with httpx.AsyncClient(timeout=5) as http:
        answer = await http.post(event.secrets["CHAT_URL"].text(), json={"text": text})
    answer.raise_for_status()  # raising means: try again later
    api.log("told the chat", user_id=event.user_id)
