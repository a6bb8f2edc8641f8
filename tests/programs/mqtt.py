"""MQTT, through Paho: each quality of service, what is retained, a last will."""

import queue

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from proving import store


class Client:
    def __init__(self, host, name, will=None):
        self.heard = queue.Queue()
        self.said = queue.Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        if will:
            self.client.will_set(will, "gone", qos=1)
        self.client.on_message = lambda _c, _u, message: self.heard.put((message.topic, message.payload))
        self.client.on_connect = lambda _c, _u, _f, reason, _p: self.said.put(("connected", reason))
        self.client.on_subscribe = lambda *_: self.said.put(("subscribed", 0))
        self.client.connect(host, 1883, keepalive=5)
        self.client.loop_start()
        assert self.said.get(timeout=10) == ("connected", 0)

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        assert self.said.get(timeout=10)[0] == "subscribed"

    def publish(self, topic, payload, **more):
        self.client.publish(topic, payload, **more).wait_for_publish(10)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def first(host):
    Client(host, "first").close()


def work(host):
    hears, speaks = Client(host, "hears"), Client(host, "speaks", will="wills/speaks")
    for qos in (0, 1, 2):
        hears.subscribe(f"news/{qos}/#", qos)
        for number in range(100):
            speaks.publish(f"news/{qos}/{number}", bytes([number]) * 500, qos=qos)
        heard = [hears.heard.get(timeout=10) for _ in range(100)]
        assert heard == [(f"news/{qos}/{number}", bytes([number]) * 500) for number in range(100)], qos
    large = bytes(range(256)) * 2048
    speaks.publish("state", large, qos=1, retain=True)
    late = Client(host, "late")
    late.subscribe("state", 1)
    assert late.heard.get(timeout=10) == ("state", large)
    # A connection that breaks without a goodbye is a death: its will is told.
    hears.subscribe("wills/#", 1)
    speaks.client.loop_stop()
    speaks.client.socket().close()
    assert hears.heard.get(timeout=10) == ("wills/speaks", b"gone")
    speaks.client.publish("state", b"", retain=True)
    late.close()
    hears.close()


store(first, work)
