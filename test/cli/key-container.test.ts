/** Key containers from bytes to bytes. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { readKeyContainer, writeKeyContainer } from '../../src/client/key-container.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { parseKeyId } from '../../src/kernel/identifiers.ts'

const ID = '6f1d2a54-0000-4000-8000-00000000000a'
const OTHER_ID = '6f1d2a54-0000-4000-8000-00000000000b'

const read = (text: string): { keyId: string; hex: string }[] | undefined =>
  readKeyContainer(Buffer.from(text))?.map(({ keyId, key }) => ({ keyId, hex: key.use((bytes) => bytes.toString('hex')) }))

describe('a key container', () => {
  it('is read whatever its order of members, spacing and extensions', () => {
    const text = `{ "key_container_extension": {"keys": [{"key": "no"}], "key": "{["},
      "keys" : [ {"key_ID":"${ID}", "key_ID_extension": {"key": "no"}, "key": "AQID"},
                 {"key" : "BA==", "key_extension": [[{"key":"no"}]], "key_ID":"${OTHER_ID.toUpperCase()}"} ] }`
    expect(read(text)).toEqual([
      { keyId: ID, hex: '010203' },
      { keyId: OTHER_ID, hex: '04' },
    ])
  })

  it('keeps the mark of a key that is not from QKD', () => {
    const mark = ',"key_extension":{"openkme_source":"fallback"}'
    const text = `{"keys":[{"key_ID":"${ID}","key":"AQID"${mark}},{"key_ID":"${OTHER_ID}","key":"BA=="}]}\n`
    const keys = readKeyContainer(Buffer.from(text))!
    expect(keys.map(({ fromFallback }) => fromFallback)).toEqual([true, undefined])
    expect(writeKeyContainer(keys).toString()).toBe(text)
  })

  it('is read when slashes are escaped, as some JSON writers do', () => {
    expect(read(String.raw`{"keys":[{"key_ID":"${ID}","key":"\/\/\/\/"}]}`)).toEqual([{ keyId: ID, hex: 'ffffff' }])
  })

  it.each([
    ['not JSON', '<html>'],
    ['cut off', `{"keys":[{"key_ID":"${ID}","key":"AQ`],
    ['without keys', '{}'],
    ['with a key that is not base64', `{"keys":[{"key_ID":"${ID}","key":"secret!!"}]}`],
    ['with an empty key', `{"keys":[{"key_ID":"${ID}","key":""}]}`],
    ['with a key ID that is no UUID', '{"keys":[{"key_ID":"1","key":"AQID"}]}'],
    ['with a key and no ID', '{"keys":[{"key":"AQID"}]}'],
    ['with two keys under one ID', `{"keys":[{"key_ID":"${ID}","key":"AQID","key":"AQID"}]}`],
    ['with an escaped member name', String.raw`{"keys":[{"key_ID":"${ID}","\u006bey":"AQID"}]}`],
  ])('is refused %s', (_, text) => expect(read(text)).toBeUndefined())

  it('leaves nothing of the answer behind', () => {
    const answer = Buffer.from(`{"keys":[{"key_ID":"${ID}","key":"AQID"}]}`)
    readKeyContainer(answer)
    expect(answer.equals(Buffer.alloc(answer.length))).toBe(true)
  })

  it('is written as it is read', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 70 }), { minLength: 1, maxLength: 4 }), (all) => {
        const keys = all.map((bytes) => ({ keyId: parseKeyId(ID)!, key: SecretBytes.take(Uint8Array.from(bytes)) }))
        expect(read(writeKeyContainer(keys).toString('utf8'))).toEqual(
          all.map((bytes) => ({ keyId: ID, hex: Buffer.from(bytes).toString('hex') })),
        )
      }),
    )
  })
})
