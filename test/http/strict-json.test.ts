/** Strict JSON agrees with JSON.parse wherever it accepts, and refuses what is ambiguous. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { parseStrictJson } from '../../src/http/strict-json.ts'
import { BadRequest } from '../../src/kernel/errors.ts'

const parse = (text: string): unknown => parseStrictJson(Buffer.from(text, 'utf8'))
const spelledByJson = (value: unknown): string => JSON.stringify(value)

/** Whether a value has something strict JSON refuses although JSON.parse takes it. */
const isPlain = (value: unknown): boolean => {
  if (typeof value === 'number') return !Object.is(value, -0) && (!Number.isInteger(value) || Number.isSafeInteger(value))
  if (typeof value === 'string') return value.isWellFormed()
  if (typeof value !== 'object' || value === null) return true
  return Object.entries(value).every(
    ([name, member]) => !['__proto__', 'constructor'].includes(name) && isPlain(name) && isPlain(member),
  )
}

describe('strict JSON', () => {
  it('reads every plain value as JSON.parse does', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6, noUnicodeString: false }), fc.constantFrom(0, 2), (value, indent) => {
        fc.pre(isPlain(value))
        const text = JSON.stringify(value, null, indent)
        expect(parse(text)).toEqual(JSON.parse(text))
      }),
      { numRuns: 500 },
    )
  })

  it('never accepts what JSON.parse refuses, and never returns another value', () => {
    const fragment = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"a"',
      '"b\\u0061"',
      '"',
      '\\',
      '1',
      '-',
      '1e5',
      '.5',
      'null',
      'true',
      ' ',
      '\n',
    )
    fc.assert(
      fc.property(fc.array(fragment, { maxLength: 12 }), (fragments) => {
        const text = fragments.join('')
        let accepted: unknown
        try {
          accepted = parse(text)
        } catch (error) {
          expect(error).toBeInstanceOf(BadRequest)
          return
        }
        expect(accepted).toEqual(JSON.parse(text))
      }),
      { numRuns: 3000 },
    )
  })

  it('refuses a doubled member wherever it stands and however it is spelled', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', maxLength: 8 }),
        fc.jsonValue({ maxDepth: 2 }),
        fc.boolean(),
        (name, value, escaped) => {
          const escape = (text: string): string =>
            `"${[...Array(text.length).keys()].map((at) => `\\u${text.charCodeAt(at).toString(16).padStart(4, '0')}`).join('')}"`
          const again = escaped ? escape(name) : spelledByJson(name)
          const text = `[{"x${'y'.repeat(9)}":0,${spelledByJson(name)}:${spelledByJson(value)} , ${again} :1}]`
          expect(() => parse(text)).toThrow(BadRequest)
        },
      ),
      { numRuns: 300 },
    )
  })

  it('takes the same name in different objects and as a value', () => {
    const text = '[{"a":"a","b":["a","a",{"a":1}]},{"a":2}]'
    expect(parse(text)).toEqual(JSON.parse(text))
  })

  it.each(['9007199254740991', '-9007199254740991', '0', '0.5', '1.0', '1e3'])('takes the number %s', (text) => {
    expect(parse(text)).toBe(Number(text))
  })

  it.each([
    '9007199254740992',
    '-9007199254740993',
    '1e400',
    '-1e400',
    '-0',
    '-0.0',
    '-0e7',
    '1e17',
    '01',
    '+1',
    '.5',
    '1.',
    '0x10',
  ])('refuses the number %s', (text) => {
    expect(() => parse(text)).toThrow(BadRequest)
  })

  it('counts depth and strings to the limit and no further', () => {
    const bytes = (text: string): Buffer => Buffer.from(text)
    expect(parse('[[[[[[[[]]]]]]]]')).toEqual([[[[[[[[]]]]]]]])
    expect(() => parse('[[[[[[[[[]]]]]]]]]')).toThrow(BadRequest)
    const strings = (count: number): string => `[${Array(count).fill('"s"').join()}]`
    expect(parse(strings(1024))).toHaveLength(1024)
    expect(() => parse(strings(1025))).toThrow(BadRequest)
    expect(parseStrictJson(bytes(strings(3)), { maxStrings: 3 })).toHaveLength(3)
    expect(() => parseStrictJson(bytes(strings(4)), { maxStrings: 3 })).toThrow(BadRequest)
    expect(() => parseStrictJson(bytes('[[]]'), { maxDepth: 1 })).toThrow(BadRequest)
  })

  it.each(['"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800":1}', '"unterminated', '"a\\'])('refuses the string in %s', (text) => {
    expect(() => parse(text)).toThrow(BadRequest)
  })

  it('takes a surrogate pair and a brace inside a string', () => {
    expect(parse('{"\\ud83d\\ude00":"}]{\\"[,"}')).toEqual({ '😀': '}]{"[,' })
  })
})
