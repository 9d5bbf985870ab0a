/** Base64 from bytes to bytes. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { base64Length, decodeBase64, encodeBase64, writeBase64 } from '../../src/kernel/base64.ts'

describe('base64', () => {
  it('agrees with Node in both directions', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        const text = Buffer.from(bytes).toString('base64')
        expect(encodeBase64(bytes).toString('latin1')).toBe(text)
        expect(base64Length(bytes.length)).toBe(text.length)
        expect(decodeBase64(Buffer.from(text))).toEqual(Buffer.from(bytes))
      }),
    )
  })

  it('of a part is written at its place and nowhere else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat(40), fc.nat(40), fc.nat(5), (bytes, one, other, at) => {
        const [from, to] = [Math.min(one, other, bytes.length), Math.min(Math.max(one, other), bytes.length)]
        const text = Buffer.from(bytes.subarray(from, to)).toString('base64')
        const target = Buffer.alloc(at + text.length + 3, '.')
        expect(writeBase64(target, at, bytes, from, to)).toBe(at + text.length)
        expect(target.toString('latin1')).toBe(`${'.'.repeat(at)}${text}...`)
      }),
    )
  })

  it.each(['A', 'AAA', 'AA-_', 'AA A', 'A===', '=AAA', 'AAA\n'])('refuses %j', (text) =>
    expect(decodeBase64(Buffer.from(text))).toBeUndefined(),
  )
})
