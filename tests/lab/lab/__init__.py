"""What is lost behind a real balancer, with servers that nobody here wrote, when ECS stops a task.

A round is one stop of one of two replicas behind HAProxy (`play`), a cell some rounds of the same server, stop and
method (`matrix`), and `__main__` plays what is missing of the cells and prints the table (`tables`).
"""
