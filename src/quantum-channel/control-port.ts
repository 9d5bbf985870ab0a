/** The control port of a running quantum-channel emulator, both ends of it: a line is answered with a line. It is on 127.0.0.1,
 *  where whoever may start the emulator may also speak to it. */
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { obeyControlLine } from './control-line.ts'
import type { ChannelServer } from './quantum-channel.ts'

const MAX_LINE_LENGTH = 1_024

/** Answers every line that comes on a connection with one line, until the other end closes it or asks to stop. */
export const serveControlLines = (socket: Socket, server: Pick<ChannelServer, 'setEve' | 'status'>, onQuit: () => void): void => {
  let rest = ''
  socket.setEncoding('latin1')
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line.trim() === '') continue
      const reply = obeyControlLine(server, line)
      socket.write(`${reply.text}\n`)
      if (reply.quit) onQuit()
    }
    if (rest.length > MAX_LINE_LENGTH) socket.destroy()
  })
}

const ANSWER_DEADLINE_MS = 5_000

/** Says one line to an emulator on this machine. @returns its answer. @throws Error when there is none. */
export const askOnControlPort = (port: number, line: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1')
    let answer = ''
    socket.setEncoding('latin1')
    socket.setTimeout(ANSWER_DEADLINE_MS, () => socket.destroy(new Error('no answer')))
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('no answer')))
    socket.on('data', (chunk: string) => {
      answer += chunk
      const end = answer.indexOf('\n')
      if (end < 0) return
      resolve(answer.slice(0, end))
      socket.destroy()
    })
    socket.write(`${line}\n`)
  })
