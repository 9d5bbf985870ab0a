/** What the KMEs are measured against: the same mutual TLS and answers of the same size, with nothing behind them.
 *  `https` answers from node:https alone, `express` through one route of a lean Express 5. `/N` has the size of an
 *  enc_keys answer with N keys. */
import { constants } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import express from 'express'
import { containerOf } from './key-container-size.ts'

const [kind, certificate, privateKey, clientCa, ...numbers] = process.argv.slice(2) as [string, string, string, string]

const bodies = new Map(numbers.map((number) => [`/${number as string}`, containerOf(Number(number))]))

const answer = (body: Buffer, response: ServerResponse): void => {
  response.writeHead(200, [
    'Content-Type',
    'application/json',
    'Cache-Control',
    'no-store',
    'Content-Length',
    String(body.length),
  ])
  response.end(body)
}

const bare = (request: IncomingMessage, response: ServerResponse): void => answer(bodies.get(request.url ?? '')!, response)

const lean = express()
lean.disable('x-powered-by')
lean.disable('etag')
lean.set('query parser', false)
for (const [path, body] of bodies) lean.get(path, (_request, response) => answer(body, response))

const server = createServer(
  {
    cert: readFileSync(certificate),
    key: readFileSync(privateKey),
    ca: readFileSync(clientCa),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    ciphers: 'TLS_AES_256_GCM_SHA384',
    ecdhCurve: 'X25519MLKEM768:X25519:P-256:P-384',
    secureOptions: constants.SSL_OP_NO_TICKET,
    noDelay: true,
  },
  kind === 'express' ? lean : bare,
)
server.listen(0, '127.0.0.1', () => console.log(`LISTENING ${(server.address() as AddressInfo).port}`))
