"""A WebSocket server, by the package websockets: `websocket_server.py PORT`. What it does is in the path."""

import asyncio
import os
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def both(socket):
    """Sends two dozen frames of a mebibyte while it reads as many, in no agreed order."""

    async def send():
        for number in range(24):
            await socket.send(bytes([number]) * (1 << 20))

    async def read():
        for number in range(24):
            assert await socket.recv() == bytes([255 - number]) * (1 << 20)

    await asyncio.gather(send(), read())
    await socket.close(4001, "both ways done")


async def close(socket):
    """Closes as it is told to."""
    code, reason = (await socket.recv()).split(" ", 1)
    await socket.close(int(code), reason)


async def report(socket):
    """Says how the client closed the connection before this one."""
    await socket.send(closed.get("before", "nothing"))


async def remember(socket):
    await socket.send("go")
    await socket.wait_closed()
    closed["before"] = f"{socket.close_code} {socket.close_reason}"


async def speak_first(socket):
    """The first frame leaves with the answer to the upgrade."""
    await socket.send("welcome")
    await echo(socket)


async def abort(socket):
    """The connection is cut in the middle of things, as when a program crashes."""
    await socket.send("now")
    socket.transport.abort()


async def tick(socket):
    """As many numbers as asked for, a tenth of a second apart, then an orderly end."""
    for number in range(int(await socket.recv())):
        await socket.send(f"{number}")
        await asyncio.sleep(0.1)
    await socket.close(1000, "told all")


closed = {}
PATHS = {f"/{name.__name__}": name for name in (echo, both, close, report, remember, speak_first, abort, tick)}


async def main():
    async def handle(socket):
        await PATHS[socket.request.path](socket)

    def choose(socket, offered):
        return next((name for name in ("weft.v2", "weft.v1") if name in offered), None)

    async with serve(handle, None, int(sys.argv[1]), max_size=4 << 20, select_subprotocol=choose):
        print("serving", os.getpid(), flush=True)
        await asyncio.Future()


asyncio.run(main())
