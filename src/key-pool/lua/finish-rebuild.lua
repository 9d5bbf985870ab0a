-- ARGV: ID of the rebuilding, now. What was read takes the place of the line, less what was taken since the reading began, and with
-- what came meanwhile.
if redis.call('HGET', level, 'rebuilding') ~= ARGV[1] then return 0 end
local now = tonumber(ARGV[2])
local state = read_state()
local totals = redis.call('HMGET', level, 'fresh_mine', 'fresh_theirs', 'rebuilding_since')
state.mine, state.theirs = tonumber(totals[1]), tonumber(totals[2])

local taken, some = {}, false
for _, key in ipairs({ given, received }) do
  for _, answer in ipairs(redis.call('HVALS', key)) do
    for _, request in ipairs(cmsgpack.unpack(answer)) do
      if type(request) == 'table' then
        for _, run in ipairs(request) do
          local id = string.sub(run, 1, ID_BYTES)
          local units = taken[id] or {}
          for at = ID_BYTES + 1, #run, UNIT_BYTES do units[string.sub(run, at, at + UNIT_BYTES - 1)] = true end
          taken[id] = units
          some = true
        end
      end
    end
  end
end
if some then
  local length = redis.call('LLEN', fresh)
  for index = 0, length - 1 do
    local run = redis.call('LINDEX', fresh, 0)
    redis.call('LPOP', fresh)
    local units = taken[string.sub(run, 1, ID_BYTES)]
    if units then
      local left = { string.sub(run, 1, ID_BYTES) }
      for at = ID_BYTES + 1, #run, UNIT_BYTES do
        local unit = string.sub(run, at, at + UNIT_BYTES - 1)
        if not units[unit] then left[#left + 1] = unit end
      end
      state.mine = state.mine - (units_of(run) - (#left - 1))
      run = table.concat(left)
    end
    if is_run(run) then redis.call('RPUSH', fresh, run) end
  end
end
for _, packed in ipairs(redis.call('LRANGE', since, 0, -1)) do
  local run, theirs = unpack(cmsgpack.unpack(packed))
  local known = #run > 0 and redis.call('SISMEMBER', seen, string.sub(run, 1, ID_BYTES)) == 1
  if not known then
    state.theirs = state.theirs + theirs
    if is_run(run) then
      redis.call('RPUSH', fresh, run)
      state.mine = state.mine + units_of(run)
    end
  end
end
redis.call('DEL', line, opened, reserved, received, since, seen)
if redis.call('EXISTS', fresh) == 1 then redis.call('RENAME', fresh, line) end
redis.call('HDEL', level, 'rebuilding', 'rebuilding_since', 'rebuilding_until', 'fresh_mine', 'fresh_theirs')
redis.call('HSET', level, 'built', totals[3])
state.reserved, state.emergency = 0, 0
share_out(state, now)
write_state(state)
return 1
