"""NATS, through nats-py: news, requests, queue groups."""

import asyncio

import nats
from proving import store


async def ask(host):
    client = await nats.connect(f"nats://{host}:4222", connect_timeout=10, allow_reconnect=False)
    await client.flush(timeout=10)
    await client.close()


async def talk(host):
    async with await nats.connect(f"nats://{host}:4222", connect_timeout=10, allow_reconnect=False) as client:
        other = await nats.connect(f"nats://{host}:4222", allow_reconnect=False)
        news = await client.subscribe("news.*")
        await client.flush()
        for number in range(500):
            await other.publish(f"news.{number}", bytes([number % 256]) * 1000)
        heard = [await news.next_msg(timeout=10) for _ in range(500)]
        assert [message.data for message in heard] == [bytes([number % 256]) * 1000 for number in range(500)]

        async def answer(message):
            await message.respond(message.data[::-1])

        await other.subscribe("reverse", queue="workers", cb=answer)
        await client.subscribe("reverse", queue="workers", cb=answer)
        await asyncio.gather(client.flush(), other.flush())
        answers = await asyncio.gather(
            *(client.request("reverse", f"{number}".encode(), timeout=10) for number in range(200))
        )
        assert [reply.data for reply in answers] == [f"{number}"[::-1].encode() for number in range(200)]
        large = bytes(1_000_000)
        assert (await client.request("reverse", large, timeout=10)).data == large
        await other.close()


store(lambda host: asyncio.run(ask(host)), lambda host: asyncio.run(talk(host)))
