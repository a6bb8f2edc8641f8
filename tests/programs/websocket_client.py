"""A client of websocket_server.py, by the package websockets: `websocket_client.py WHAT HOST:PORT`."""

import asyncio
import sys

import proving
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

assert proving


def dial(path, **more):
    return connect(f"ws://{sys.argv[2]}{path}", max_size=4 << 20, **more)


async def everything():
    # Each size at which a frame's head changes, text and bytes, compressed and not.
    for compression in ("deflate", None):
        async with dial("/echo", compression=compression) as socket:
            for size in (0, 1, 125, 126, 65535, 65536, 1 << 20):
                for message in ("ü" * (size // 2), bytes(size)):
                    await socket.send(message)
                    assert await socket.recv() == message
            await asyncio.wait_for(await socket.ping(b"are you there"), 5)
    async with dial("/echo", subprotocols=["weft.v0", "weft.v1"]) as socket:
        assert socket.subprotocol == "weft.v1"
    async with dial("/speak_first") as socket:
        assert await socket.recv() == "welcome"
        await socket.send("thanks")
        assert await socket.recv() == "thanks"

    # Both directions at once.
    async with dial("/both", compression=None) as socket:

        async def send():
            for number in range(24):
                await socket.send(bytes([255 - number]) * (1 << 20))

        async def read():
            for number in range(24):
                assert await socket.recv() == bytes([number]) * (1 << 20)

        await asyncio.gather(send(), read())
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4001, "both ways done")

    # Close codes, from either side.
    for code, reason in ((1000, ""), (1001, "going"), (1011, "broken"), (4999, "our own")):
        async with dial("/close") as socket:
            await socket.send(f"{code} {reason}")
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (code, reason)
        async with dial("/remember") as socket:
            assert await socket.recv() == "go"
            await socket.close(code, reason)
        async with dial("/report") as socket:
            assert await socket.recv() == f"{code} {reason}"

    # A connection that was cut does not look like one that was closed.
    async with dial("/abort") as socket:
        assert await socket.recv() == "now"
        try:
            await socket.recv()
            raise AssertionError("something came")
        except ConnectionClosedError as error:
            assert error.rcvd is None, error

    # A hundred at once.
    async def one(number):
        async with dial("/echo") as socket:
            for turn in range(5):
                await socket.send(f"{number} {turn}")
                assert await socket.recv() == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(100)))


async def ticks():
    """Hears as many numbers as asked for and an orderly end."""
    async with dial("/tick") as socket:
        await socket.send(sys.argv[3])
        print(await socket.recv(), flush=True)
        heard = 1
        async for _ in socket:
            heard += 1
        assert (heard, socket.close_code, socket.close_reason) == (int(sys.argv[3]), 1000, "told all"), heard


asyncio.run(globals()[sys.argv[1]]())
