"""An app of every kind of answer, served by Hypercorn over HTTP/1.1, HTTP/2 by prior knowledge and h2c upgrades, with WebSockets on each:
`origin.py PORT [SECONDS]`, how long an idle connection is kept in the latter."""

import asyncio
import json
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

posts = {}


async def body_of(receive):
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def echo_socket(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo_socket(receive, send)
    if scope["type"] != "http":
        return

    async def answer(status, headers, *pieces):
        headers = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    path = scope["path"]
    if path == "/echo":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for piece in body_of(receive):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/count":
        total = 0
        async for piece in body_of(receive):
            total += len(piece)
        await answer(200, [("content-length", str(len(str(total))))], str(total).encode())
    elif path == "/length":
        await answer(200, [("content-length", "5"), ("x-kept", "as it is")], b"" if scope["method"] == "HEAD" else b"hello")
    elif path == "/chunks":
        await answer(200, [], *(b"%d\n" % number for number in range(100)))
    elif path == "/nothing":
        await answer(204, [("x-kept", "as it is")])
    elif path == "/unchanged":
        await answer(304, [("etag", '"7"'), ("content-length", "1234")])
    elif path.startswith("/post/"):
        async for _ in body_of(receive):
            pass
        posts[path] = posts.get(path, 0) + 1
        await answer(200, [("content-length", "2")], b"ok")
    elif path == "/posts":
        await answer(200, [("content-type", "application/json")], json.dumps(posts).encode())
    elif path == "/never":
        await asyncio.sleep(600)
    elif path == "/slow":
        # Begins at once and takes two seconds for the rest.
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(20):
            await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body"})
    else:
        await answer(404, [("content-length", "0")])


config = Config()
config.bind = [f"[::]:{sys.argv[1]}"]
config.keep_alive_timeout = float(sys.argv[2]) if len(sys.argv) > 2 else 60
config.websocket_max_message_size = 4 << 20
config.accesslog = config.errorlog = "-"
asyncio.run(serve(app, config))
