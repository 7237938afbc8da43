// The administration under /testbed/: JSON in, JSON out. Counts, latency and faults do not apply to it.
import { completeClient, Store } from './state.mjs';

const TOKENS = ['Grant', 'RefreshToken', 'AccessToken', 'ClientCredentials', 'DeviceCode', 'AuthorizationCode'];

async function readJson(ctx) {
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  return text ? JSON.parse(text) : {};
}

export async function addClient(provider, metadata) {
  const client = new provider.Client(completeClient(metadata)); // oidc-provider validates it
  await provider.Client.adapter.upsert(client.clientId, client.metadata());
  return client.metadata();
}

export function administration(provider, state, publicJwks) {
  const routes = {
    'GET settings': () => state.settings,
    'PATCH settings': (body) => state.change(body),
    'GET counts': () => state.counts,
    'DELETE counts': () => { state.resetCounts(); return state.counts; },
    'GET secrets': () => Object.fromEntries(Object.entries(state.secrets).map(([name, values]) => [name, [...values]])),
    'GET faults': () => state.faults,
    'POST faults': (body) => { state.addFault(body); return state.faults; },
    'DELETE faults': () => { state.clearFaults(); return state.faults; },
    'GET clients': () => Store.all('Client').map(({ client_id, client_name, scope }) => ({ client_id, client_name, scope })),
    'POST clients': (body) => addClient(provider, body),
    'POST revoke': ({ client_id: id }) => ({ revoked: Store.forget(TOKENS, (one) => one.clientId === id) }),
    // The codes that nobody has approved or denied yet: the scripted user asks for them.
    'GET device-codes': () => Store.all('DeviceCode').filter((one) => !one.accountId && !one.error && !one.inFlight && !one.consumed)
      .map((one) => ({ user_code: one.userCode, client_id: one.clientId })),
    'GET jwks': () => publicJwks,
  };
  return async (ctx, next) => {
    if (!ctx.path.startsWith('/testbed/')) return next();
    const route = routes[`${ctx.method} ${ctx.path.slice('/testbed/'.length)}`];
    if (!route) ctx.throw(404);
    try {
      ctx.body = await route(ctx.method === 'GET' ? {} : await readJson(ctx));
    } catch (error) {
      ctx.status = 400;
      ctx.body = { error: error.error_description ?? error.message };
    }
    return undefined;
  };
}
