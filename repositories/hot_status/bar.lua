-- Say of which jobs something stands here; of the others, bar the way to older statuses with a fence (see write.lua).
--
-- Most jobs are watched by nobody when they start or end: for those this is all, at a small part of what a write costs.
--
-- KEYS[1]    the bookkeeping hash
-- ARGV[1]    an epoch to begin if there is none
-- ARGV[2,3]  how the names of status hashes begin, and those of the callers' own keys, which are deleted
-- ARGV[4]    milliseconds that a fence lives
-- ARGV[5]    for each job its id and its version, 36 and 16 characters: to send them one by one would cost the client
--            more than all of this costs Redis
-- Returns    {epoch, seq, the places, from 1, of jobs of which something stands}
--#include epoch
local answer, own = {epoch, tostring(seq)}, {}
for at = 1, #ARGV[5], 52 do
    local id = string.sub(ARGV[5], at, at + 35)
    local key = ARGV[2] .. id
    if redis.call('EXISTS', key) == 1 then
        answer[#answer + 1] = (at + 51) / 52
    else
        local version = string.format('%.0f', tonumber(string.sub(ARGV[5], at + 36, at + 51)))
        redis.call('HSET', key, 'epoch', epoch, 'version', version)
        redis.call('PEXPIRE', key, ARGV[4])
    end
    own[#own + 1] = ARGV[3] .. id
end
redis.call('UNLINK', unpack(own))
return answer
