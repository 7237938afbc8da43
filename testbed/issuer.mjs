// node issuer.mjs CONFIG.json: runs a real OpenID provider on https://localhost:PORT for the demo, tests and benchmarks.
//
// CONFIG.json: {"key": FILE, "cert": FILE, "port": 0, "exit_with_stdin": true,
//               "settings": {...}, "scopes": [...], "clients": [{...}]}; only key and cert are required.
// Once it is ready, it prints one line: {"issuer": URL, "pid": NUMBER}. Each line on stdin is a command, "pause" (refuse
// connections) or "resume"; it answers each with one line on stdout.
import { generateKeyPair } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { addClient, administration } from './admin.mjs';
import { requestPipeline } from './requests.mjs';
import { State, Store } from './state.mjs';

console.info = console.error; // stdout has nothing but the lines described above

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

async function signingKey() {
  const { privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: 'testbed', alg: 'RS256', use: 'sig' };
}

function publicPart({ kty, n, e, kid, alg, use }) {
  return { keys: [{ kty, n, e, kid, alg, use }] };
}

async function listen(server, port) {
  server.listen(port, '127.0.0.1');
  await once(server, 'listening'); // rejects when the server reports an error instead
  return server.address().port;
}

/** Counts the connections that carry requests, without those of the administration. */
function countConnections(server, state) {
  const seen = new WeakSet();
  server.prependListener('request', ({ socket, url }) => {
    if (seen.has(socket) || url.startsWith('/testbed/')) return;
    seen.add(socket);
    state.counts.connections += 1;
  });
}

async function obey(command, server, port) {
  if (command === 'pause') {
    server.close();
    server.closeAllConnections();
    if (server.listening) await once(server, 'close');
  } else if (command === 'resume') {
    if (!server.listening) await listen(server, port);
  } else {
    return { error: `unknown command ${command}` };
  }
  return { done: command };
}

async function main() {
  const state = new State(config.scopes);
  state.change(config.settings ?? {});
  // Making the key and loading oidc-provider take about equally long, so they run in parallel. The port opens after both,
  // so that nobody connects before the provider works.
  const [jwk, { createProvider }] = await Promise.all([signingKey(), import('./provider.mjs')]);
  const server = createServer({ key: readFileSync(config.key), cert: readFileSync(config.cert) });
  // A connection stays open until its client closes it. Otherwise it would end after five idle seconds, sometimes while a
  // request is on its way, and a slow client would need more connections than a fast one.
  server.keepAliveTimeout = 0;
  const port = await listen(server, config.port ?? 0);
  const issuer = `https://localhost:${port}`;

  const provider = createProvider(issuer, jwk, state);
  provider.use(administration(provider, state, publicPart(jwk)));
  provider.use(requestPipeline(state));
  for (const client of config.clients ?? []) await addClient(provider, client);
  countConnections(server, state);
  server.on('request', provider.callback());

  setInterval(Store.sweep, 60_000).unref();
  process.on('SIGTERM', () => process.exit(0));
  const commands = createInterface({ input: process.stdin });
  commands.on('line', async (line) => say(await obey(line.trim(), server, port).catch((error) => ({ error: error.message }))));
  if (config.exit_with_stdin) commands.on('close', () => process.exit(0));
  say({ issuer, pid: process.pid });
}

await main();
