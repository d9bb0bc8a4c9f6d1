// Node's own HTTP server, over TLS where CERTIFICATE names one; it answers as server.py does.
const { readFileSync } = require('fs');
const pem = process.env.CERTIFICATE && readFileSync(process.env.CERTIFICATE);

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function answer(request, response) {
  const url = new URL(request.url, 'http://app');
  const number = (name) => Number(url.searchParams.get(name) || 0);
  for await (const part of request) void part;
  if (url.pathname === '/stream') {
    for (let sent = 0; sent < number('ms'); sent += number('every')) {
      response.write('part');
      await sleep(number('every'));
    }
  } else if (url.pathname === '/large') {
    const part = Buffer.alloc(65536);
    for (let sent = 0; sent < number('bytes'); sent += part.length) {
      if (!response.write(part)) await new Promise((done) => response.once('drain', done));
    }
  } else {
    await sleep(number('ms'));
  }
  response.end('end');
}

const server = pem
  ? require('https').createServer({ key: pem, cert: pem }, answer)
  : require('http').createServer(answer);
server.keepAliveTimeout = 75000;
server.listen(8080, '0.0.0.0');
