"""An app that knows nothing of being stopped, for uvicorn, hypercorn and granian."""

import asyncio
import os
from urllib.parse import parse_qs

TICK = 0.2


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    seconds = int(parse_qs(scope["query_string"].decode()).get("ms", ["0"])[0]) / 1000
    taken, more = 0, scope["path"] == "/upload"
    while more:
        message = await receive()
        taken += len(message.get("body", b""))
        more = message.get("more_body", False)
    headers = [(b"content-type", b"text/plain")]
    if "CLOSE" in os.environ:
        headers.append((b"connection", b"close"))
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await send({"type": "http.response.body", "body": b"more\n", "more_body": True})
            await asyncio.sleep(min(TICK, left))
        await send({"type": "http.response.body", "body": b"end\n"})
        return
    body = b"taken %d\n" % taken
    if scope["path"] != "/upload":
        await asyncio.sleep(seconds)
        body = b"done\n"
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
