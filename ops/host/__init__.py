"""What is done to a host: pyinfra facts, operations and deploys. The only room that uses pyinfra.

Nothing imports this room but deploy.py: pyinfra patches the standard library for gevent.
"""
