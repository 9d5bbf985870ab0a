-- ARGV: now, and an account or nothing. Returns false when the pool is not built, else mine, theirs, reserved, offered, taken, refused and
-- what the account could take.
if not is_built() then return false end
local state = read_state()
local drawable = 0
if ARGV[2] then
  share_out(state, tonumber(ARGV[1]))
  write_state(state)
  drawable = allowed(state, ARGV[2])
end
return { state.mine, state.theirs, state.reserved + state.emergency, state.offered, state.taken, state.refused, drawable }
