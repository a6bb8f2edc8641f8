"""A client of grpc_server.py, by grpcio: `grpc_client.py WHAT HOST:PORT`."""

import asyncio
import json
import sys
import time

import grpc
import proving
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

assert proving
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_retries", 0)]


class Kinds:
    def __init__(self, channel):
        def method(kind, name):
            return getattr(channel, kind)(f"/weft.test.Kinds/{name}")

        self.unary = method("unary_unary", "Unary")
        self.sum = method("stream_unary", "Sum")
        self.count = method("unary_stream", "Count")
        self.chat = method("stream_stream", "Chat")
        self.introduce = method("unary_unary", "Introduce")
        self.refuse = method("unary_unary", "Refuse")
        self.flaky = method("unary_unary", "Flaky")
        self.break_off = method("unary_stream", "BreakOff")
        self.hang = method("stream_stream", "Hang")
        self.tick = method("unary_stream", "Tick")
        self.when_ended = method("unary_unary", "WhenEnded")
        self.meet = method("stream_stream", "Meet")


async def kinds(channel, call):
    assert await call.unary(b"abc") == b"cba"
    assert await call.sum(iter([b"1", b"2", b"39"])) == b"42"
    assert [answer async for answer in call.count(b"1000")] == [b"%d" % number for number in range(1000)]
    chat = call.chat()
    for word in [b"a word", b"", b"another" * 1000]:
        # Each is answered before the next is sent: nothing is held back.
        await chat.write(word)
        assert await asyncio.wait_for(chat.read(), 5) == word[::-1]
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() == grpc.StatusCode.OK


async def metadata(channel, call):
    answer = call.introduce(b"", metadata=(("x-word", "spoken"), ("x-bytes-bin", b"\x00\x01\xff")), timeout=30)
    begun = {key: value for key, value in await answer.initial_metadata()}
    assert (begun["begun"], begun["begun-bin"]) == ("first", b"\x00\xff\n"), begun
    told = json.loads(await answer)
    assert (told["x-word"], told["x-bytes-bin"]) == ("spoken", "0001ff"), told
    assert "grpc-python-asyncio" in told["user-agent"], told
    over = [(key, value) for key, value in await answer.trailing_metadata() if key.startswith("over")]
    assert over == [("over", "a, b"), ("over", "c"), ("over-bin", b"\xfe\x01")], over


async def errors(channel, call):
    for code, words in [("NOT_FOUND", "no such order"), ("INTERNAL", "broken: 100 % ü\n日本"), ("OUT_OF_RANGE", "")]:
        try:
            await call.refuse(f"{code} {words}".encode())
            raise AssertionError("it was not refused")
        except grpc.aio.AioRpcError as error:
            assert (error.code(), error.details()) == (grpc.StatusCode[code], words), error
            assert ("reason", "refused") in tuple(error.trailing_metadata()), error
    heard = []
    try:
        async for message in call.break_off(b""):
            heard.append(message)
        raise AssertionError("it did not break off")
    except grpc.aio.AioRpcError as error:
        assert (heard, error.code()) == ([b"one", b"two"], grpc.StatusCode.DATA_LOSS), (heard, error)
    try:
        await channel.unary_unary("/weft.test.Kinds/Nothing")(b"")
        raise AssertionError("it does not exist")
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


async def deadlines(channel, call):
    told = json.loads(await call.introduce(b"", timeout=5))
    # gRPC rounds it up where it writes it.
    assert 0 < told["time-remaining"] < 5.1, told
    name = f"deadline-{time.time_ns()}"
    begun = time.monotonic()
    hanging = call.hang(timeout=0.5)
    try:
        await hanging.write(name.encode())
        assert await hanging.read() == b"begun"
        await hanging.read()
        raise AssertionError("it ended in time")
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert 0.4 < time.monotonic() - begun < 2, "in time"
    server_ended = float(await call.when_ended(name.encode(), timeout=5))
    assert server_ended - begun < 2, "the server was told"


async def cancellation(channel, call):
    """The client lets go: how much later the server knows, at worst and at best, in milliseconds."""
    took = []
    for number in range(20):
        name = f"cancel-{time.time_ns()}-{number}"
        hanging = call.hang()
        await hanging.write(name.encode())
        assert await hanging.read() == b"begun"
        begun = time.monotonic()
        hanging.cancel()
        took.append(float(await call.when_ended(name.encode(), timeout=5)) - begun)
    took.sort()
    print(" ".join(f"{seconds * 1000:.2f}" for seconds in (took[0], took[len(took) // 2], took[-1])))


async def hang_up(channel, call):
    """Begins a call of a given name and is ended by the one who started us."""
    hanging = call.hang()
    await hanging.write(sys.argv[3].encode())
    assert await hanging.read() == b"begun"
    print("begun", flush=True)
    await asyncio.sleep(600)


async def ended(channel, call):
    assert float(await call.when_ended(sys.argv[3].encode(), timeout=10)) > 0


async def ticks(channel, call):
    """Hears as many numbers as asked for and an orderly end."""
    heard = 0
    async for number in call.tick(sys.argv[3].encode()):
        assert number == b"%d" % heard
        heard += 1
        print(number, flush=True)
    assert heard == int(sys.argv[3]), heard


async def crowd(channel, call):
    """As many streams at once as asked for, over one connection: each alive before any is answered."""
    number = int(sys.argv[3])

    async def one(own):
        stream = call.meet()
        await stream.write(b"%d" % number)
        assert await stream.read() == b"all here"
        for turn in range(3):
            word = b"%d %d" % (own, turn)
            await stream.write(word)
            assert await stream.read() == word
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    await asyncio.wait_for(asyncio.gather(*(one(own) for own in range(number))), 60)


async def large(channel, call):
    message = bytes(range(256)) * (1 << 16)
    assert await call.unary(message) == message[::-1]
    chat = call.chat()
    for _ in range(3):
        await chat.write(message)
        assert await chat.read() == message[::-1]


async def calls(channel, call):
    """So many calls, one after the other."""
    for _ in range(int(sys.argv[3])):
        assert await call.unary(b"abc") == b"cba"


async def refused(channel, call):
    """A call that its server refuses is refused."""
    try:
        await call.flaky(b"refused")
        raise AssertionError("it was not refused")
    except grpc.aio.AioRpcError as error:
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "not now"), error


async def in_the_end(channel, call):
    """Calls that their server refuses twice are answered."""
    for number in range(40):
        assert await call.flaky(b"name %d" % number) == (b"name %d" % number)[::-1]


async def pings(channel, call):
    """A silent stream whose client asks ten times a second whether the other end lives stays open."""
    hanging = call.hang()
    await hanging.write(b"silent")
    assert await hanging.read() == b"begun"
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(hanging.read())), 3)
        raise AssertionError("the stream ended")
    except asyncio.TimeoutError:
        hanging.cancel()
    assert await call.unary(b"still here") == b"ereh llits"


async def services(channel, call):
    """grpcio's own health service and reflection."""
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="weft.test.Kinds"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service="weft.test.Kinds"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask])):
        names = [service.name for service in answer.list_services_response.service]
        assert "weft.test.Kinds" in names, names
        return
    raise AssertionError("no answer")


async def load(channel, call):
    """Twenty callers for some seconds, with short calls and long streams: none fails. How many calls."""
    end = time.monotonic() + float(sys.argv[3])
    done = 0

    async def caller(own):
        nonlocal done
        while time.monotonic() < end:
            if own % 4 == 0:
                chat = call.chat()
                for word in (b"one", b"two", b"three"):
                    await chat.write(word)
                    assert await chat.read() == word[::-1]
                    await asyncio.sleep(0.02)
                await chat.done_writing()
                assert await chat.read() is grpc.aio.EOF
            else:
                assert await call.unary(b"%d" % own) == (b"%d" % own)[::-1]
            done += 1

    await asyncio.gather(*(caller(own) for own in range(20)))
    print(done)


async def main():
    what = globals()[sys.argv[1]]
    options = list(OPTIONS)
    if what is pings:
        options += [
            ("grpc.keepalive_time_ms", 100),
            ("grpc.keepalive_timeout_ms", 2000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    async with grpc.aio.insecure_channel(sys.argv[2], options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        await what(channel, Kinds(channel))


asyncio.run(main())
