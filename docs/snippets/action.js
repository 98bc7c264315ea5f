/**
 * Tells Evergrant of a login, from an Auth0 post-login Action. Needs no npm dependency.
 *
 * Secrets of the Action: EVERGRANT_URL     https://tokens.example.com/hooks/auth0/acme/actions
 *                        EVERGRANT_SECRET  the tenant's actions_secret ("whsec_…")
 *
 * Signed as https://www.standardwebhooks.com says. It never fails a login: it gives up after two
 * seconds, and swallows every error. What it misses, the log stream tells.
 */
const crypto = require('node:crypto');

const PATIENCE_MS = 2000;
const SESSION_MS = 10 * 60 * 1000; // longer than any login takes, MFA and consent included

function signature(secret, id, timestamp, body) {
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const signed = crypto.createHmac('sha256', key).update(`${id}.${timestamp}.${body}`);
  return `v1,${signed.digest('base64')}`;
}

async function send(secrets, message) {
  const body = JSON.stringify(message);
  const id = `msg_${crypto.randomUUID()}`;
  const timestamp = Math.floor(Date.now() / 1000).toString();
  await fetch(secrets.EVERGRANT_URL, {
    method: 'POST',
    body,
    headers: {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': signature(secrets.EVERGRANT_SECRET, id, timestamp, body),
    },
    redirect: 'error',
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
}

/** Over a live session no identity provider is asked, and what it was asked for before is known. */
function overALiveSession(event) {
  const { prompt } = (event.request && event.request.query) || {};
  if (prompt === 'none') return true;
  const { methods } = event.authentication || {};
  const asked = (Array.isArray(methods) ? methods : [])
    .filter((one) => one && one.name === 'federated')
    .map((one) => Date.parse(one.timestamp));
  return asked.length > 0 && asked.every((at) => Date.now() - at > SESSION_MS); // NaN: not known
}

/** Post-login trigger. */
exports.onExecutePostLogin = async (event) => {
  const protocol = event.transaction && event.transaction.protocol;
  if (protocol === 'oauth2-refresh-token') return; // no identity provider was asked
  const { id, name, strategy } = event.connection || {};
  try {
    if (overALiveSession(event)) return;
    await send(event.secrets, {
      kind: 'post-login',
      tenant: event.tenant && event.tenant.id,
      user_id: event.user.user_id,
      connection: { id, name, strategy },
      client_id: event.client && event.client.client_id,
      transaction_id: event.transaction && event.transaction.id,
      protocol,
      at: new Date().toISOString(),
    });
  } catch (error) {
    console.log(`evergrant was not told: ${error.name}`);
  }
};

/** Event Stream trigger (destination "action"): passes the CloudEvent on. */
exports.onExecuteEventStream = async (event) => {
  try {
    await send(event.secrets, { kind: 'event-stream', event: event.message });
  } catch (error) {
    console.log(`evergrant was not told: ${error.name}`);
  }
};
