// The path of a request to oidc-provider and back: counting, latency, faults, and the differences between what grid
// clients send and what oidc-provider takes.
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Store } from './state.mjs';

const ENDPOINTS = [
  ['token', /^\/token$/], ['introspection', /^\/token\/introspection$/], ['revocation', /^\/token\/revocation$/],
  ['registration', /^\/reg$/], ['client', /^\/reg\//], ['discovery', /^\/\.well-known\//], ['jwks', /^\/jwks$/],
  ['device_authorization', /^\/device\/auth$/], ['device', /^\/device/], ['interaction', /^\/interaction\//],
  ['userinfo', /^\/me$/], ['authorization', /^\/auth/],
];
const WITH_FORM = new Set(['token', 'introspection', 'revocation', 'device_authorization']);

const basicOf = (ctx) => /^basic (.*)$/i.exec(ctx.get('authorization'))?.[1];

function formDecoded(text) {
  try { return decodeURIComponent(text.replaceAll('+', ' ')); } catch { return text; }
}

function clientIdOf(ctx, form) {
  const basic = basicOf(ctx);
  if (basic) return formDecoded(Buffer.from(basic, 'base64').toString().split(':')[0]);
  return form?.get('client_id') ?? /^\/reg\/(.+)/.exec(ctx.path)?.[1];
}

async function readBody(ctx) {
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** Reads what the other steps need to know. Later `adapt` puts the body that oidc-provider sees into ctx.req.body. */
async function describe(ctx) {
  const endpoint = ENDPOINTS.find(([, path]) => path.test(ctx.path))?.[0] ?? 'other';
  const isForm = WITH_FORM.has(endpoint) && ctx.is('application/x-www-form-urlencoded');
  const form = isForm ? new URLSearchParams(await readBody(ctx)) : undefined;
  return { endpoint, form, client_id: clientIdOf(ctx, form), grant_type: endpoint === 'token' ? form?.get('grant_type') : undefined };
}

/** Makes oidc-agent a native client: it registers as a web client, which may have no loopback redirect URIs. */
async function adaptRegistration(ctx, state) {
  const text = await readBody(ctx);
  try {
    ctx.req.body = JSON.stringify({ scope: state.scopes.join(' '), ...JSON.parse(text), application_type: 'native' });
  } catch {
    ctx.req.body = text; // oidc-provider says what is wrong with it
  }
}

/** Puts "audience=a b" (oidc-agent 4) and "resource=a&resource=b" (RFC 8707, oidc-agent 5) into ctx.state.audiences. */
function adaptAudience(ctx, form, settings) {
  const asked = [...form.getAll('audience').flatMap((value) => value.split(/\s+/)), ...form.getAll('resource')].filter(Boolean);
  form.delete('audience');
  form.delete('resource');
  if (asked.length && !settings.ignore_audience) ctx.state.audiences = [...new Set(asked)];
}

function defaultClientScopes(clientId, state) {
  const client = Store.all('Client').find((one) => one.client_id === clientId);
  const scopes = client?.scope?.split(' ') ?? state.scopes;
  return scopes.filter((scope) => !['openid', 'profile', 'offline_access'].includes(scope)).join(' ');
}

function adaptScope(form, request, state) {
  if (form.get('scope')?.trim() === '') form.delete('scope');
  if (request.endpoint !== 'token') return;
  if (state.settings.ignore_scope) form.delete('scope');
  if (request.grant_type === 'client_credentials' && !form.has('scope')) form.set('scope', defaultClientScopes(request.client_id, state));
}

function adaptBasic(ctx) {
  const text = Buffer.from(basicOf(ctx), 'base64').toString();
  const colon = text.indexOf(':');
  const encoded = [text.slice(0, colon), text.slice(colon + 1)].map(encodeURIComponent).join(':');
  ctx.req.headers.authorization = `Basic ${Buffer.from(encoded).toString('base64')}`;
}

function refuse(ctx, error, description) {
  ctx.status = 400;
  ctx.body = { error, error_description: description };
}

/** Adds behaviours that oidc-provider has no option for, after a successful refresh. */
async function afterRefresh(ctx, state, scope) {
  const { AccessToken: token, RefreshToken: refresh } = ctx.oidc.entities;
  const { settings } = state;
  if (settings.narrow_on_refresh && scope) Object.assign(Store.live('RefreshToken', refresh.jti), { scope });
  if (settings.bind_audience) Object.assign(Store.live('RefreshToken', refresh.jti), { boundTo: String(ctx.state.audiences ?? '') });
  if (settings.revoke_previous) {
    Store.forget(['AccessToken'], (one) => one.grantId === refresh.grantId && one.jti !== token.jti);
  }
}

function boundElsewhere(ctx, form) {
  const bound = Store.live('RefreshToken', form.get('refresh_token'))?.boundTo;
  return bound !== undefined && bound !== String(ctx.state.audiences ?? '');
}

/** Passes the request on in the form that oidc-provider takes, and adapts its answer. */
async function adapt(ctx, next, request, state) {
  const { settings } = state;
  const { form, endpoint } = request;
  if (endpoint === 'registration') await adaptRegistration(ctx, state);
  if (form) {
    if (settings.refuse_blank_scope && endpoint === 'token' && form.get('scope')?.trim() === '') {
      return refuse(ctx, 'invalid_scope', 'The requested scope is invalid, unknown, or malformed.');
    }
    adaptAudience(ctx, form, settings);
    adaptScope(form, request, state);
    if (settings.bind_audience && boundElsewhere(ctx, form)) {
      return refuse(ctx, 'invalid_target', 'the refresh token is bound to another audience');
    }
    if (settings.raw_basic && basicOf(ctx)) adaptBasic(ctx);
    ctx.req.body = form.toString();
  }
  await next();
  if (ctx.status >= 400 || ctx.body === null || typeof ctx.body !== 'object') return undefined;
  state.handOut(ctx.body);
  if (endpoint === 'token' && settings.omit_expires_in) delete ctx.body.expires_in;
  if (endpoint === 'device_authorization') ctx.body.interval = settings.device_interval;
  if (endpoint === 'registration' && settings.registration_without_scope) delete ctx.body.scope;
  if (endpoint === 'introspection' && ctx.body.aud?.includes(' ')) ctx.body.aud = ctx.body.aud.split(' ');
  if (request.grant_type === 'refresh_token') await afterRefresh(ctx, state, form.get('scope'));
  return undefined;
}

/** Answers as the fault says. With `after`, oidc-provider does its work first, and only the answer is lost. */
async function fail(ctx, fault, state, proceed) {
  if (fault.hold || fault.gather) await state.hold(fault);
  if (fault.delay_ms) await sleep(fault.delay_ms);
  if (fault.after) await proceed();
  if (fault.drop || fault.hang) {
    ctx.respond = false;
    if (fault.drop) ctx.req.socket.destroy();
    else if (!ctx.req.socket.destroyed) await once(ctx.req.socket, 'close');
  } else if (fault.status !== undefined || fault.body !== undefined) {
    ctx.status = fault.status ?? 500;
    ctx.body = fault.body ?? '';
    ctx.set(fault.headers ?? {});
  } else if (!fault.after) {
    await proceed(); // the fault only delays
  }
}

export function requestPipeline(state) {
  return async (ctx, next) => {
    state.inFlight += 1;
    state.counts.max_in_flight = Math.max(state.counts.max_in_flight, state.inFlight);
    try {
      const request = await describe(ctx);
      state.count(request); // before the answer, so that a client that has its answer sees the request counted
      if (state.settings.latency_ms) await sleep(state.settings.latency_ms);
      const fault = state.takeFault(request);
      const proceed = () => adapt(ctx, next, request, state);
      await (fault ? fail(ctx, fault, state, proceed) : proceed());
      const { date_offset: offset } = state.settings;
      if (offset) ctx.set('Date', new Date(Date.now() + offset * 1000).toUTCString());
    } finally {
      state.inFlight -= 1;
    }
  };
}
