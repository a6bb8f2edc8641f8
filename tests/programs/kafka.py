"""Kafka's protocol, through aiokafka: a topic made, written by a batching producer and read by a consumer group."""

import asyncio
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from proving import store


async def ask(host):
    client = AIOKafkaClient(bootstrap_servers=f"{host}:9092", request_timeout_ms=10_000)
    await client.bootstrap()
    await client.close()


async def talk(host):
    server = f"{host}:9092"
    topic = f"orders-{uuid.uuid4()}"
    admin = AIOKafkaAdminClient(bootstrap_servers=server)
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
    assert topic in await admin.list_topics()
    async with AIOKafkaProducer(bootstrap_servers=server, acks="all", linger_ms=5) as producer:
        sent = [
            await producer.send(topic, f"order {number} {'x' * 1000}".encode(), key=f"{number}".encode(), partition=number % 3)
            for number in range(1000)
        ]
        await asyncio.gather(*sent)
        large = bytes(900_000)
        await producer.send_and_wait(topic, large, key=b"large", partition=0)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=server, group_id=f"readers-{uuid.uuid4()}", auto_offset_reset="earliest"
    )
    heard = {}
    async with consumer:
        while len(heard) < 1001:
            record = await asyncio.wait_for(consumer.getone(), 30)
            heard[record.key] = record.value
        await consumer.commit()
    assert heard.pop(b"large") == large
    assert heard == {f"{number}".encode(): f"order {number} {'x' * 1000}".encode() for number in range(1000)}
    await admin.close()


store(lambda host: asyncio.run(ask(host)), lambda host: asyncio.run(talk(host)))
