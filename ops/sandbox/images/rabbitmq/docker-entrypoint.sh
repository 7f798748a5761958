#!/bin/bash
# What the official image's entrypoint does: the folder's owner, then the server as its user.
set -eu
if [ "$(id -u)" = 0 ] && [ "$1" = rabbitmq-server ]; then
  find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq '{}' +
  exec gosu rabbitmq "$BASH_SOURCE" "$@"
fi
exec "$@"
