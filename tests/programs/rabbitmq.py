"""RabbitMQ, through pika: a queue with confirms and acknowledgements, a fan-out, a large message."""

import pika
from proving import store


def connect(host):
    return pika.BlockingConnection(pika.ConnectionParameters(host, blocked_connection_timeout=20, socket_timeout=10))


def first(host):
    connect(host).close()


def work(host):
    connection = connect(host)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("work", exclusive=False, auto_delete=True)
    for number in range(200):
        channel.basic_publish("", "work", f"{number}".encode(), mandatory=True)
    heard = []
    for method, _, body in channel.consume("work", inactivity_timeout=10):
        heard.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(heard) == 200:
            break
    channel.cancel()
    assert heard == [f"{number}".encode() for number in range(200)]

    channel.exchange_declare("news", "fanout", auto_delete=True)
    queues = [channel.queue_declare("", exclusive=True).method.queue for _ in range(3)]
    for queue in queues:
        channel.queue_bind(queue, "news")
    large = bytes(range(256)) * 4096
    channel.basic_publish("news", "", large)
    for queue in queues:
        _, _, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=10))
        channel.cancel()
        assert body == large
    connection.close()


store(first, work)
