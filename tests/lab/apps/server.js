// An app that knows nothing of being stopped; also what stands behind Caddy, nginx and Envoy.
const http = require('http');
const [host, port] = [process.env.HOST || '0.0.0.0', Number(process.env.PORT || 8080)];

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://app');
  const ms = Number(url.searchParams.get('ms') || 0);
  response.setHeader('content-type', 'text/plain');
  if (url.pathname === '/stream') {
    const end = Date.now() + ms;
    const tick = () => {
      const left = end - Date.now();
      if (left <= 0) return response.end('end\n');
      response.write('more\n');
      setTimeout(tick, Math.min(200, left));
    };
    return tick();
  }
  if (url.pathname === '/upload') {
    let taken = 0;
    request.on('data', (part) => { taken += part.length; });
    return request.on('end', () => response.end(`taken ${taken}\n`));
  }
  setTimeout(() => response.end('done\n'), ms);
});
// Longer than the balancer keeps a connection, as every guide to load balancers says.
server.keepAliveTimeout = 75000;
server.listen(port, host);
