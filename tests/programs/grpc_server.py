"""A gRPC service of every kind, by grpcio: `grpc_server.py PORT [MILLISECONDS]`, the life of a connection in the latter.

Messages are bytes: what is tried is the protocol, not protobuf. Health and reflection are grpcio's own."""

import asyncio
import json
import sys
import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

ended = {}
tried = {}
waiting = 0
together = asyncio.Event()


async def unary(request, context):
    return request[::-1]


async def sum_up(requests, context):
    return b"%d" % sum([int(request) async for request in requests])


async def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


async def chat(requests, context):
    async for request in requests:
        yield request[::-1]


async def introduce(request, context):
    """What it was told of the call, as a message; the same words back as metadata before and after."""
    told = {key: value.hex() if isinstance(value, bytes) else value for key, value in context.invocation_metadata()}
    await context.send_initial_metadata((("begun", "first"), ("begun-bin", b"\x00\xff\n")))
    context.set_trailing_metadata((("over", "a, b"), ("over", "c"), ("over-bin", b"\xfe\x01")))
    told["time-remaining"] = context.time_remaining()
    told["peer"] = context.peer()
    return json.dumps(told).encode()


async def refuse(request, context):
    code, message = request.decode().split(" ", 1)
    context.set_trailing_metadata((("reason", "refused"),))
    await context.abort(grpc.StatusCode[code], message)


async def flaky(request, context):
    """Refuses two calls of a name and answers the third."""
    tried[request] = tried.get(request, 0) + 1
    if tried[request] % 3:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    return request[::-1]


async def break_off(request, context):
    yield b"one"
    yield b"two"
    await context.abort(grpc.StatusCode.DATA_LOSS, "after two")


async def hang(requests, context):
    """Says once that it has begun, and then nothing; when it ended is remembered under its name."""
    name = (await anext(aiter(requests))).decode()
    try:
        # A call may be cancelled as soon as this is sent, before we go on.
        yield b"begun"
        await asyncio.sleep(600)
    finally:
        ended[name] = time.monotonic()


async def tick(request, context):
    """As many numbers as asked for, a tenth of a second apart."""
    for number in range(int(request)):
        yield b"%d" % number
        await asyncio.sleep(0.1)


async def when_ended(request, context):
    """When the call of this name ended, on the clock that all processes of the machine share."""
    while request.decode() not in ended:
        await asyncio.sleep(0.005)
    return b"%.6f" % ended[request.decode()]


async def meet(requests, context):
    """Answers only when as many calls are open at once as the first message says."""
    global waiting
    number = int(await anext(aiter(requests)))
    waiting += 1
    if waiting == number:
        together.set()
    await together.wait()
    yield b"all here"
    async for request in requests:
        yield request


KINDS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Sum": grpc.stream_unary_rpc_method_handler(sum_up),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Introduce": grpc.unary_unary_rpc_method_handler(introduce),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Flaky": grpc.unary_unary_rpc_method_handler(flaky),
    "BreakOff": grpc.unary_stream_rpc_method_handler(break_off),
    "Hang": grpc.stream_stream_rpc_method_handler(hang),
    "Tick": grpc.unary_stream_rpc_method_handler(tick),
    "WhenEnded": grpc.unary_unary_rpc_method_handler(when_ended),
    "Meet": grpc.stream_stream_rpc_method_handler(meet),
}


async def main():
    options = [
        ("grpc.max_receive_message_length", 64 << 20),
        ("grpc.max_concurrent_streams", 4000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 50),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if len(sys.argv) > 2:
        options += [("grpc.max_connection_age_ms", int(sys.argv[2])), ("grpc.max_connection_age_grace_ms", 20_000)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("weft.test.Kinds", KINDS),))
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("weft.test.Kinds", health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(("weft.test.Kinds", reflection.SERVICE_NAME), server)
    server.add_insecure_port(f"[::]:{sys.argv[1]}")
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
