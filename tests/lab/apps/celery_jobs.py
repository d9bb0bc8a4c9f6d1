"""Jobs that know nothing of being stopped, for Celery; `celery_jobs.py enqueue FROM TO` asks for some."""

import os
import random
import sys
import time

import redis
from celery import Celery

BROKER = os.environ.get("BROKER", "redis://10.0.2.1:6379/0")
app = Celery("celery_jobs", broker=BROKER)
app.conf.broker_connection_retry_on_startup = True


@app.task
def work(number, seconds):
    time.sleep(seconds)
    redis.Redis.from_url(BROKER).sadd("done", number)


if __name__ == "__main__" and sys.argv[1] == "enqueue":
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        work.delay(number, random.Random(number).uniform(0.2, 5))
