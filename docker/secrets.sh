#!/bin/sh
# The rest of docker/secrets, after `evergrant init --secrets-dir secrets`: passwords of the servers
# and the web role's keyring. Overwrites nothing. Usage, in docker/: sh secrets.sh rabbitmq|redis
set -eu
broker=${1:-rabbitmq}
umask 077

new() { head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
write() { [ ! -e "secrets/$1" ] || { echo "secrets/$1 exists" >&2; exit 2; }; cat > "secrets/$1"; }

EVERGRANT_KEYRING=secrets/keyring/keyring.json \
  evergrant keys export secrets/web-keyring/keyring.json --role web

postgres=$(new)
echo "$postgres" | write postgres_password
echo "postgresql://evergrant:$postgres@postgres/evergrant" | write database_url
web=$(new) scheduler=$(new)
echo "postgresql://evergrant_web:$web@postgres/evergrant" | write web_database_url
echo "postgresql://evergrant_scheduler:$scheduler@postgres/evergrant" | write scheduler_database_url
write postgres_roles.sql <<END
CREATE ROLE evergrant_web LOGIN PASSWORD '$web';
CREATE ROLE evergrant_scheduler LOGIN PASSWORD '$scheduler';
END
echo "operator:$(new)" | write flower_auth

case $broker in
rabbitmq)
  ours=$(new) flower=$(new)
  echo "amqp://evergrant:$ours@rabbitmq//" | write broker_url
  echo "amqp://flower:$flower@rabbitmq//" | write flower_broker_url
  watch='^(celeryev.*|.*pidbox.*|.*reply.*)$'   # Flower may only watch events
  write rabbitmq_definitions.json <<END
{
  "vhosts": [{"name": "/"}],
  "users": [
    {"name": "evergrant", "password": "$ours", "tags": []},
    {"name": "flower", "password": "$flower", "tags": []}
  ],
  "permissions": [
    {"user": "evergrant", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    {"user": "flower", "vhost": "/", "configure": "$watch", "write": "$watch", "read": "$watch"}
  ]
}
END
  ;;
redis)
  password=$(new)
  echo "redis://:$password@redis/0" | write broker_url
  echo "redis://:$password@redis/0" | write flower_broker_url
  echo "requirepass $password" | write redis.conf
  ;;
*) echo "no broker $broker: rabbitmq or redis" >&2; exit 2 ;;
esac
echo "COMPOSE_PROFILES=$broker" > .env

# Compose hands files on with the owner and mode they have. Our containers run as uid 10001. The
# servers read their files as users of their own: 0444, in a directory that is closed to others.
chown -R 10001:10001 secrets evergrant.toml
find secrets -type f -exec chmod 0400 {} +
for file in postgres_password postgres_roles.sql rabbitmq_definitions.json redis.conf; do
  [ ! -e "secrets/$file" ] || chmod 0444 "secrets/$file"
done
